//! Whether a task may end as it did, and the words for what happened.

use kumi_core::message::Leave;
use kumi_core::{Limit, Outcome, Payload, TaskView, Time};

use super::ledger::{Check, rule};
use super::task::{Note, Wish};

/// Whether a task may end like this.
pub fn justified(now: Time, number: usize, task: &Note, view: &TaskView, result: Option<Payload>, over: bool) -> Check {
    let attempts = task.crashes + u32::from(task.accepted);
    rule!(view.attempts == attempts, "task {number} is said to have begun {} times, not {attempts}", view.attempts);
    match &view.outcome {
        Outcome::Success(payload) | Outcome::Error(payload) => {
            rule!(result.as_ref() == Some(payload), "task {number} takes a result that is not, or no more, its own");
        }
        Outcome::Crash(_) => {
            rule!(task.spent, "task {number} ends as crash after {} of its own", task.crashes);
        }
        Outcome::Cancel => {
            rule!(over || task.wish != Wish::Result, "task {number} is cancelled, but nobody asked for it")
        }
        Outcome::Timeout(limit) => {
            let due = match limit {
                Limit::Run => task.spec.run_limit.map(|limit| task.dealt.after(limit)),
                Limit::Total => task.spec.total_limit.map(|limit| task.submitted.after(limit)),
            };
            rule!(due == Some(now), "task {number} is timed out at {now:?}, due {due:?}");
        }
        Outcome::Unlaunchable(text) => rule!(!text.is_empty(), "task {number} cannot be launched, and nobody says why"),
    }
    Ok(())
}

pub fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success(_) => "success",
        Outcome::Error(_) => "error",
        Outcome::Crash(_) => "crash",
        Outcome::Cancel => "cancel",
        Outcome::Timeout(Limit::Run) => "timeout of seconds_run",
        Outcome::Timeout(Limit::Total) => "timeout of seconds_total",
        Outcome::Unlaunchable(_) => "unlaunchable",
    }
}

pub fn leave_word(leave: Leave) -> &'static str {
    match leave {
        Leave::Idle => "left as idle",
        Leave::Wall => "left by wall time",
        Leave::Tasks => "left by tasks_max",
        Leave::Closing => "left as closing",
    }
}

//! The backup of the simulated dispatcher: tasks leave for it, and come back or do not. Seen from the other side, tasks of
//! another dispatcher come as guests.

use std::sync::Arc;

use kumi_core::{Cause, Certificate, Event, FunctionId, Outcome, SubmitError, TaskId, TaskView};

use super::ledger::{Check, Ledger, rule};
use super::profile::{MICRO, SECOND};
use super::task::{Kind, Note, Spec, Spot, Wish};
use super::world::{Letter, World};

/// What the backup says of a task that has come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Reports,
    Returns,
    Crashes,
    Cancels,
    /// It has ended itself, or cannot start workers.
    Strands,
}

impl Ledger {
    /// Has this task crashed as often as it may here, and another place to go?
    pub fn leaves(&mut self, id: TaskId) -> Check {
        let Some(&number) = self.by_id.get(&id) else { return Err(format!("{id:?} is handed over, but unknown")) };
        let task = &self.tasks[number];
        rule!(self.open.contains(&number), "task {number} is handed over, but done");
        rule!(task.spent && !task.spec.once, "task {number} is handed over after {} crashes", task.crashes);
        rule!(self.policy.backup && task.kin.generation == 0, "task {number} is handed over, and may not be");
        rule!(self.waiting.remove(&number), "task {number} is handed over, and was elsewhere: {:?}", task.spot);
        self.tasks[number].spot = Spot::Away;
        self.saw("a task handed over");
        Ok(())
    }

    /// Nobody wants this task any more, which was away.
    pub fn called_back(&mut self, id: TaskId) -> Check {
        let Some(&number) = self.by_id.get(&id) else { return Err(format!("{id:?} is called back, but unknown")) };
        rule!(self.tasks[number].spot == Spot::Away, "task {number} is called back, but not away");
        self.tasks[number].unwanted = true;
        self.saw("a task called back");
        Ok(())
    }

    /// A task has ended that was away: it came back, or was called back.
    pub fn ended_afar(&mut self, number: usize) -> Check {
        let task = &self.tasks[number];
        let from_afar = std::mem::take(&mut self.from_afar) == Some(number);
        rule!(from_afar != task.unwanted, "task {number} ends, and the backup is not told");
        Ok(())
    }

    /// A guest ends with the dispatcher that it is a guest of, and not as if somebody had cancelled it.
    pub fn turned_out(&mut self, number: usize, outcome: &Outcome) -> Check<bool> {
        if !(self.tasks[number].guest && self.terminated) {
            return Ok(false);
        }
        rule!(matches!(outcome, Outcome::Unlaunchable(_)), "guest {number} is turned out as {outcome:?}");
        self.saw("a guest turned out");
        Ok(true)
    }

    /// How many are with the backup, or on their way.
    pub fn away(&self) -> usize {
        self.open.iter().filter(|number| self.tasks[**number].spot == Spot::Away).count()
    }
}

impl World {
    /// The hands take a task to the backup.
    pub(super) fn hand_over(&mut self, task: TaskId) -> Check {
        // It may have ended while they were on their way.
        let Some((new, attempts)) = self.brain.leaving(task) else { return Ok(()) };
        let number = self.ledger.by_id[&task];
        let note = &self.ledger.tasks[number];
        rule!(attempts == note.crashes, "task {number} leaves after {attempts} attempts, really {}", note.crashes);
        rule!(new.payload == note.spec.arguments(number), "task {number} leaves with arguments that are not its own");
        rule!(new.seconds_total.is_none() && !new.kept, "task {number} leaves with what stays");
        if self.rng.chance(300) {
            let delay = self.rng.span(MICRO, SECOND);
            self.post(delay, Letter::FromBackup { task, news: News::Reports });
        }
        let news = [News::Returns, News::Returns, News::Crashes, News::Cancels, News::Strands];
        let (news, delay) = (self.rng.pick(&news), self.rng.span(MICRO, 3 * SECOND));
        self.post(delay, Letter::FromBackup { task, news });
        Ok(())
    }

    /// The backup says something, whether or not anybody still wants to know.
    pub(super) fn backup_says(&mut self, task: TaskId, news: News) -> Check {
        let number = self.ledger.by_id[&task];
        let is_away = self.ledger.open.contains(&number);
        rule!(self.brain.is_away(task) == is_away, "task {number} is away: {is_away}, but not for the brain");
        if !is_away {
            self.ledger.saw("news of a task that is not wanted any more");
        }
        if news == News::Reports {
            let report: kumi_core::Payload = Arc::from(*b"from afar");
            self.ledger.tasks[number].report = is_away.then(|| Arc::clone(&report));
            self.say(|| format!("the backup reports of {number}"));
            self.brain.reported_away(task, report);
            return self.absorb();
        }
        self.ledger.from_afar = is_away.then_some(number);
        if news == News::Strands {
            return self.tell(Event::Stranded { task, text: Arc::from("the backup has ended") });
        }
        let view = self.view_of_guest(number, news, is_away);
        self.tell(Event::CameBack { task, view })
    }

    fn view_of_guest(&mut self, number: usize, news: News, is_away: bool) -> Box<TaskView> {
        let more = self.rng.between(1, 3) as u32;
        let payload: kumi_core::Payload = Arc::from(*b"done afar");
        let certificate = Arc::new(Certificate { kind: Cause::Time, ..Certificate::default() });
        let outcome = match news {
            News::Returns => Outcome::Success(Arc::clone(&payload)),
            News::Crashes => Outcome::Crash(Arc::clone(&certificate)),
            News::Cancels | News::Reports | News::Strands => Outcome::Cancel,
        };
        let note = &mut self.ledger.tasks[number];
        if is_away {
            note.crashes += more;
            if news == News::Cancels {
                note.wish = Wish::Cancel;
            }
            if news == News::Returns {
                self.ledger.expect_from_afar(number, &payload);
            }
        }
        let note = &self.ledger.tasks[number];
        Box::new(TaskView {
            function: Arc::from("function"),
            submitted: self.now,
            finished: self.now,
            run: None,
            face: None,
            attempts: note.crashes + u32::from(news == News::Returns),
            certificate: (news == News::Crashes).then_some(certificate),
            outcome,
            controller: Some(Arc::from("backup")),
        })
    }

    /// Whoever has handed over this task, if it is a guest, is told how it ended.
    pub(super) fn guest_leaves(&mut self, task: TaskId) {
        if self.ledger.by_id.get(&task).is_some_and(|number| self.ledger.tasks[*number].guest) {
            self.brain.release(task);
        }
    }

    /// Another dispatcher, whose backup this one is, hands over a task.
    pub(super) fn receive(&mut self, (function, kind): (FunctionId, Kind)) -> Check {
        let mut spec = Spec::draw(&mut self.rng, kind, &self.profile);
        (spec.kept, spec.once, spec.total_limit) = (false, false, None);
        (spec.large, spec.large_result) = (None, None);
        let number = self.ledger.tasks.len();
        let attempts = self.rng.below(3) as u32;
        let new = spec.ask(function, number, self.ledger.policy.crashes_max, None, None);
        let answer = self.brain.receive(self.now, new, attempts);
        self.say(|| format!("guest {number}: {answer:?} {spec:?}"));
        match answer {
            Ok(id) => {
                rule!(!self.ledger.closing, "guest {number} is taken after the end");
                let note = Note { crashes: attempts, suspect: true, guest: true, ..Note::new(id, spec, self.now) };
                self.ledger.tasks.push(note);
                self.ledger.taken(number);
                self.ledger.saw("a guest");
            }
            Err(error) => rule!(self.ledger.closing && error == SubmitError::Closed, "guest {number}: {error:?}"),
        }
        self.absorb()
    }
}

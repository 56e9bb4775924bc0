//! The user: submits, cancels, forgets, resizes, ends workers, closes, at random moments.

use kumi_core::{Condition, FunctionId, GroupId, SubmitError};

use super::ledger::{Check, rule};
use super::profile::{MICRO, SECOND};
use super::task::{Kind, Note, Spec, Wish};
use super::world::{Letter, World};

impl World {
    /// The next thing the user does.
    pub(super) fn deed(&mut self) -> Check {
        self.deeds_left -= 1;
        match self.rng.below(100) {
            _ if self.rng.chance(self.profile.calls) => self.call_everywhere()?,
            0..25 => self.submit_some(1)?,
            25..40 => {
                let count = self.rng.between(2, 40);
                self.submit_some(count)?;
            }
            40..55 => self.cancel(false)?,
            55..70 => self.cancel(true)?,
            70..76 => self.release(),
            76..80 => self.tend_group()?,
            80..90 => self.collect()?,
            90..93 => self.resize()?,
            93 => self.dismiss()?,
            94..96 => {
                let function = self.rng.pick(&self.functions);
                self.receive(function)?;
            }
            _ if self.profile.ends_early && self.rng.chance(500) => self.close()?,
            _ if self.profile.ends_early => self.terminate()?,
            _ => self.submit_some(1)?,
        }
        let pause = self.rng.span(MICRO, SECOND);
        if self.deeds_left > 0 {
            self.post(pause, Letter::Deed);
        }
        Ok(())
    }

    /// All at the same instant: a burst. While it is gathered, somebody may begin to wait, or not.
    fn submit_some(&mut self, count: u64) -> Check {
        let function = self.rng.pick(&self.functions);
        for _ in 0..count {
            self.submit(function)?;
            if self.brain.gathering().is_some() {
                self.ledger.saw("a task gathered");
                self.hurry_or_not()?;
            }
        }
        Ok(())
    }

    fn hurry_or_not(&mut self) -> Check {
        if !self.rng.chance(100) {
            return Ok(());
        }
        self.say(|| "hurry".into());
        self.ledger.saw("a burst hurried");
        self.brain.hurry(self.now);
        rule!(self.brain.gathering().is_none(), "a burst is gathered though somebody waits");
        self.absorb()
    }

    fn submit(&mut self, function: (FunctionId, Kind)) -> Check {
        let group = self.ledger.groups.keys().last().copied().filter(|_| self.rng.chance(300));
        self.submit_to(function, group)
    }

    pub(super) fn submit_to(&mut self, (function, kind): (FunctionId, Kind), group: Option<GroupId>) -> Check {
        let policy_max = self.ledger.policy.crashes_max;
        let mut spec = Spec::draw(&mut self.rng, kind, &self.profile);
        let number = self.ledger.tasks.len();
        let large = spec.large.map_or(Ok(None), |bytes| self.write_arguments(number, bytes))?;
        let segment = large.as_ref().and_then(|large| large.segment);
        spec.large = segment.map(|(_, bytes)| bytes);
        let fits = self.ledger.bytes == 0 || self.ledger.bytes + spec.bytes() <= self.ledger.policy.queue_bytes;
        let over = group.and_then(|group| self.ledger.groups.get(&group)).is_some_and(|group| group.over);
        let closed = self.ledger.closing && !group.is_some_and(|group| self.ledger.promises.contains(&group));
        let answer = self.brain.submit(self.now, spec.ask(function, number, policy_max, large, group));
        self.say(|| format!("submit {number}: {answer:?} {spec:?}"));
        let id = match answer {
            Ok(id) => id,
            Err(error) => {
                self.ledger.saw(if closed { "a closed queue" } else { "a full queue" });
                let right = match (closed, over) {
                    (true, _) => SubmitError::Closed,
                    (false, true) => SubmitError::Over,
                    (false, false) => SubmitError::Full,
                };
                let refused = closed || over || !fits;
                rule!(error == right && refused, "task {number} is refused: {error:?}");
                return segment.map_or(Ok(()), |(segment, _)| self.let_go_of_segment(segment, false));
            }
        };
        rule!(fits && !closed && !over, "task {number} is taken, though there is no room");
        self.ledger.tasks.push(Note { group, ..Note::new(id, spec, self.now) });
        self.ledger.taken(number);
        if !self.brain.watch(id) && !self.ledger.tasks[number].spec.kept {
            let view = self.brain.view(id);
            self.ledger.resolved(self.now, id, view)?;
        }
        self.absorb()
    }

    /// Any task, mostly one that is not done.
    fn some_task(&mut self) -> Option<usize> {
        let open = self.ledger.open.len() as u64;
        if open > 0 && self.rng.chance(900) {
            let at = self.rng.below(open) as usize;
            return self.ledger.open.iter().nth(at).copied();
        }
        let all = self.ledger.tasks.len() as u64;
        (all > 0).then(|| self.rng.below(all) as usize)
    }

    fn cancel(&mut self, running_too: bool) -> Check {
        let Some(number) = self.some_task() else { return Ok(()) };
        let note = &mut self.ledger.tasks[number];
        let id = note.id;
        if running_too {
            note.wish = Wish::Cancel;
            self.brain.cancel(self.now, id);
        } else {
            note.wish = if note.wish == Wish::Cancel { Wish::Cancel } else { Wish::CancelIfWaiting };
            self.brain.cancel_waiting(self.now, id);
        }
        self.say(|| format!("cancel {number}, running too: {running_too}"));
        self.absorb()?;
        rule!(!running_too || !self.ledger.open.contains(&number), "task {number} is cancelled, but not done");
        self.carry_out()
    }

    /// The user forgets a task's handle; kept ones belong to the controller until they are collected, those of a group are read.
    fn release(&mut self) {
        let Some(number) = self.some_task() else { return };
        let note = &mut self.ledger.tasks[number];
        if !note.spec.kept && !note.guest && !note.released && note.kin.generation == 0 && note.group.is_none() {
            note.released = true;
            self.brain.release(note.id);
        }
    }

    /// Pops kept tasks: in the order of finishing.
    pub(super) fn collect(&mut self) -> Check {
        while let Some(id) = self.brain.kept_pop() {
            let kept = self.ledger.kept.pop_front();
            let right = kept.map(|number| self.ledger.tasks[number].id);
            rule!(right == Some(id), "{id:?} is popped before {right:?}");
            rule!(self.brain.view(id).is_some(), "{id:?} is popped without a record");
            self.brain.release(id);
        }
        rule!(self.ledger.kept.is_empty(), "tasks {:?} are kept, but not to be had", self.ledger.kept);
        self.absorb()
    }

    fn resize(&mut self) -> Check {
        let workers = self.rng.between(1, self.ledger.policy.berths.unwrap_or(8));
        let least = self.ledger.policy.workers_min.min(workers);
        let least = if self.rng.chance(300) { self.rng.between(0, workers) } else { least };
        self.say(|| format!("resize {workers}, at least {least}"));
        (self.ledger.policy.workers, self.ledger.policy.workers_min) = (workers, least);
        self.brain.resize(self.now, workers, least);
        self.absorb()
    }

    /// The user ends some worker, or one that is to come: at once, and then it is on nobody's list as one that works.
    fn dismiss(&mut self) -> Check {
        let all = self.brain.roster(self.now);
        if all.is_empty() {
            return Ok(());
        }
        let entry = &all[self.rng.below(all.len() as u64) as usize];
        let number = entry.number;
        self.say(|| format!("dismiss {number}: {entry:?}"));
        self.ledger.saw(if entry.face.is_some() { "a worker ended by its user" } else { "a launch ended by its user" });
        self.ledger.given_up = Some(entry.launch);
        rule!(self.brain.dismiss(self.now, number), "{entry:?} is not there to be ended");
        self.absorb()?;
        let left = self.brain.roster(self.now).into_iter().find(|entry| entry.number == number);
        let ends = left.as_ref().is_none_or(|entry| entry.condition == Condition::Killed);
        rule!(ends, "the user has ended {left:?}");
        self.carry_out()
    }

    pub(super) fn close(&mut self) -> Check {
        self.say(|| "close".into());
        self.ledger.closing = true;
        self.brain.close(self.now);
        self.absorb()?;
        self.keep_promises()
    }

    fn terminate(&mut self) -> Check {
        self.say(|| "terminate".into());
        self.ledger.closing = true;
        for number in &self.ledger.open {
            self.ledger.tasks[*number].wish = Wish::Cancel;
        }
        self.ledger.promises.clear();
        self.ledger.terminated = true;
        self.brain.terminate(self.now);
        self.absorb()?;
        rule!(self.ledger.open.is_empty(), "tasks {:?} survive the end", self.ledger.open);
        Ok(())
    }
}

//! Stories of tasks that go on with a backup, and of guests.

use std::sync::Arc;

use kumi_core::{
    Certificate, CrashesMax, Event, FromWorker, Limit, Link, NewTask, Outcome, Policy, SubmitError, TaskId, TaskView,
    Terms, ToWorker, Word, WorkerId,
};

use super::crew::{Crew, SECOND, policy};

fn crew() -> Crew {
    crew_of(1)
}

fn crew_of(workers: u64) -> Crew {
    Crew::new(Policy { crashes_max: CrashesMax::Together(0), backup: true, ..policy(workers) })
}

/// A task that is with the backup, after one crash.
fn away(crew: &mut Crew, change: impl FnOnce(&mut NewTask)) -> TaskId {
    let task = crew.submit_as(change);
    let worker = crew.join(Link::Local);
    assert_eq!(crew.dealt(worker), [task]);
    crew.dies_of(worker, task);
    assert_eq!(std::mem::take(&mut crew.handed_over), [task]);
    task
}

fn comes_back(crew: &mut Crew, task: TaskId, outcome: Outcome, certificate: Option<Certificate>) {
    let view = TaskView {
        function: Arc::from("f"),
        submitted: crew.now,
        finished: crew.now,
        run: None,
        face: None,
        attempts: 4,
        certificate: certificate.map(Arc::new),
        outcome,
        controller: Some(Arc::from("other")),
    };
    crew.tell(Event::CameBack { task, view: Box::new(view) });
}

fn success() -> Outcome {
    Outcome::Success(Arc::from(*b"value"))
}

#[test]
fn a_task_that_has_crashed_often_enough_goes_on_with_the_backup() {
    let mut crew = crew();
    let task = away(&mut crew, |task| (task.kept, task.name) = (true, Some(Arc::from("fit"))));
    let (new, attempts) = crew.brain.leaving(task).unwrap();
    assert_eq!((new.function, new.name.as_deref(), new.kept, attempts), (crew.function, Some("fit"), false, 1));
    assert!(!crew.brain.is_done(task) && !crew.brain.is_running(task));
    assert_eq!((crew.brain.counts().away, crew.brain.unresolved(), crew.brain.kept_open()), (1, 1, 1));
    assert!(crew.launches.is_empty(), "no worker is needed for it here");
    comes_back(&mut crew, task, success(), None);
    let view = crew.brain.view(task).unwrap();
    assert_eq!((view.outcome, view.attempts, view.controller.as_deref()), (success(), 4, Some("other")));
    assert_eq!(view.certificate.unwrap().cause, "SIGSEGV", "of the last worker that died of it, wherever");
    assert_eq!((crew.brain.kept_pop(), crew.brain.kept_pop()), (Some(task), None));
    assert!(crew.called_back.is_empty());
}

#[test]
fn what_happens_at_the_backup_happens_to_the_task() {
    let certificate = Certificate { cause: "afar".into(), ..Certificate::default() };
    let crash = Outcome::Crash(Arc::new(certificate.clone()));
    let error = Outcome::Error(Arc::from(*b"error"));
    for outcome in [crash, error, Outcome::Cancel, Outcome::Timeout(Limit::Run)] {
        let mut crew = crew();
        let task = away(&mut crew, |_| ());
        comes_back(&mut crew, task, outcome.clone(), Some(certificate.clone()));
        assert_eq!(crew.brain.outcome(task), Some(&outcome));
        assert_eq!(crew.brain.view(task).unwrap().certificate.unwrap().cause, "afar");
    }
}

#[test]
fn a_task_that_ends_here_while_it_is_away_is_called_back_and_ends_once() {
    let mut crew = crew();
    let cancelled = away(&mut crew, |_| ());
    crew.brain.cancel(crew.now, cancelled);
    crew.listen();
    let late = away(&mut crew, |task| task.seconds_total = Some(SECOND));
    assert_eq!(crew.brain.leaving(late).unwrap().0.seconds_total, None, "that is watched here");
    crew.wait(SECOND);
    assert_eq!(crew.called_back, [cancelled, late]);
    for task in [cancelled, late] {
        assert!(crew.brain.leaving(task).is_none(), "nobody need hand it over any more");
        comes_back(&mut crew, task, success(), None);
        crew.tell(Event::Stranded { task, text: Arc::from("too late") });
    }
    assert_eq!(crew.brain.outcome(cancelled), Some(&Outcome::Cancel));
    assert_eq!(crew.brain.outcome(late), Some(&Outcome::Timeout(Limit::Total)));
}

#[test]
fn a_backup_that_cannot_run_it_leaves_the_crash() {
    for refused in [true, false] {
        let mut crew = crew();
        let task = away(&mut crew, |_| ());
        let text: Arc<str> = Arc::from("it has ended");
        if refused {
            crew.tell(Event::Stranded { task, text });
        } else {
            comes_back(&mut crew, task, Outcome::Unlaunchable(text), None);
        }
        let view = crew.brain.view(task).unwrap();
        let Outcome::Crash(certificate) = view.outcome else { unreachable!("{:?}", view.outcome) };
        assert_eq!(certificate.cause, "SIGSEGV; then its backup could not run it: it has ended");
        assert_eq!(view.certificate, Some(certificate));
        assert_eq!((view.face.unwrap().name.as_str(), view.controller), ("worker", None));
    }
}

#[test]
fn once_tasks_do_not_go_to_the_backup() {
    let mut crew = crew();
    let once = crew.submit_as(|task| task.once = true);
    let worker = crew.join(Link::Local);
    crew.dies_of(worker, once);
    assert!(crew.crashed(once));
    assert!(crew.handed_over.is_empty());
}

/// A task on a worker, and one that it has submitted.
fn family(crew: &mut Crew) -> (WorkerId, TaskId, TaskId) {
    let parent = crew.submit();
    let worker = crew.join(Link::Local);
    crew.say(worker, FromWorker::Declare { function: 1, label: "f".into(), payload: Arc::from([]) });
    let (lease, terms, payload) = (crew.leases[&parent], Terms::default(), Arc::from([]));
    crew.say(worker, FromWorker::Submit { child: 1, parent: lease, function: 1, terms, payload });
    let child = crew.brain.child(worker, 1).unwrap();
    (worker, parent, child)
}

#[test]
fn tasks_of_tasks_end_where_their_parent_runs() {
    let mut crew = crew_of(2);
    let (parents, parent, child) = family(&mut crew);
    let childs = crew.join(Link::Local);
    crew.dies_of(childs, child);
    let told = |message: &ToWorker| matches!(message, ToWorker::Resolved { child: 1, ending, .. } if ending.word == Word::Crash);
    assert!(crew.sent[&parents].iter().any(told));
    assert!(crew.handed_over.is_empty() && !crew.brain.is_done(parent));
}

#[test]
fn what_a_task_has_submitted_is_cancelled_when_it_goes_to_the_backup() {
    let mut crew = crew();
    let (worker, parent, child) = family(&mut crew);
    crew.dies_of(worker, parent);
    assert_eq!(crew.handed_over, [parent]);
    assert!(crew.brain.is_done(child));
    assert_eq!((crew.brain.counts().cancel, crew.brain.unresolved()), (1, 1));
}

#[test]
fn closing_waits_for_what_is_away_and_terminating_calls_it_back() {
    let mut crew = crew();
    let task = away(&mut crew, |_| ());
    crew.brain.close(crew.now);
    crew.listen();
    assert!(!crew.brain.ended());
    comes_back(&mut crew, task, success(), None);
    assert!(crew.brain.ended());

    let mut crew = self::crew();
    let task = away(&mut crew, |_| ());
    crew.brain.terminate(crew.now);
    crew.listen();
    assert_eq!((crew.brain.outcome(task), &crew.called_back[..]), (Some(&Outcome::Cancel), &[task][..]));
    assert!(crew.brain.ended());
}

#[test]
fn reports_of_a_guest_are_those_of_the_task() {
    let mut crew = crew();
    let task = away(&mut crew, |_| ());
    for (number, text) in [(1, b"first"), (2, b"later")] {
        crew.brain.reported_away(task, Arc::from(*text));
        let report = crew.brain.report(task).unwrap();
        assert_eq!((report.number, &report.payload[..]), (number, &text[..]));
    }
    crew.brain.cancel(crew.now, task);
    crew.brain.reported_away(task, Arc::from(*b"too late"));
    assert_eq!(crew.brain.report(task).unwrap().number, 2);
}

#[test]
fn a_failure_of_a_united_group_calls_back_what_is_away() {
    let mut crew = crew();
    let group = crew.brain.open_group();
    let [one, other] = [0, 1].map(|_| away(&mut crew, |task| task.group = Some(group)));
    crew.brain.unite_group(crew.now, group);
    comes_back(&mut crew, one, Outcome::Error(Arc::from(*b"error")), None);
    assert_eq!((crew.brain.outcome(other), &crew.called_back[..]), (Some(&Outcome::Cancel), &[other][..]));
}

// Guests.

fn receive(crew: &mut Crew) -> Result<TaskId, SubmitError> {
    let guest = crew.brain.receive(crew.now, NewTask::new(crew.function, Arc::from([0; 100])), 3);
    crew.listen();
    guest
}

#[test]
fn a_guest_runs_alone_and_goes_on_counting() {
    let mut crew = Crew::new(Policy { queue_bytes: 1000, ..policy(1) });
    let [first, second, third] = [0, 1, 2].map(|_| receive(&mut crew).unwrap());
    assert!(crew.brain.counts().queued_bytes > 1000, "the bound is that of where it comes from");
    let worker = crew.join(Link::Local);
    let attempts = crew.sent[&worker].iter().filter_map(|message| match message {
        ToWorker::Run { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [4]);
    assert_eq!(crew.dealt(worker), [first]);
    crew.finish(worker, first, 1_000);
    assert_eq!(crew.dealt(worker), [second], "short as it is known to be, nothing waits behind it");
    crew.finish(worker, second, 1_000);
    assert_eq!(crew.dealt(worker), [third]);
    assert_eq!(crew.attempts(first), 4);
}

#[test]
fn a_guest_may_go_on_with_the_next_backup() {
    let mut crew = crew();
    let guest = receive(&mut crew).unwrap();
    let worker = crew.join(Link::Local);
    crew.dies_of(worker, guest);
    assert_eq!(crew.handed_over, [guest]);
    assert_eq!(crew.brain.leaving(guest).unwrap().1, 4);
}

#[test]
fn a_guest_ends_with_its_host_and_none_comes_after_that() {
    let mut crew = Crew::new(policy(1));
    let guest = receive(&mut crew).unwrap();
    crew.brain.terminate(crew.now);
    crew.listen();
    let Some(Outcome::Unlaunchable(text)) = crew.brain.outcome(guest) else { unreachable!() };
    assert_eq!(&**text, "controller 'crew' was terminated");
    assert_eq!(receive(&mut crew), Err(SubmitError::Closed));
    assert!(crew.brain.take_overlooked(true).is_none(), "whoever has handed it over asks");
}

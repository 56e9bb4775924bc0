//! The agent's half of a remote worker.
//!
//! The agent is the process that `kumi worker` starts: it keeps the connection and runs the worker as its child, as a host
//! runs a local one. What it says to its host, and when, is told in `agent_message.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::agent_message::{ANSWER, FromAgent, Secret, ToAgent};
use crate::error::FrameError;
use crate::ids::{Lease, Time};
use crate::message::{FromWorker, Leave, ToWorker};
use crate::session::Session;
use crate::task::Certificate;

/// First pause of an agent before it dials again, or calls for another worker; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What an agent's hands shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect to the host: then [`AgentHalf::connected`], or [`AgentHalf::disconnected`] if that fails.
    Dial,
    /// Say `Hello` and prove who we are: by the session's key if there is one, else by the ticket's secret.
    Greet {
        /// The session, its key, and how many messages of the host have come.
        session: Option<(u64, Secret, u64)>,
    },
    /// Close the connection; nothing need be said of it.
    HangUp {
        /// The host gave no sign of life; else all is said.
        silent: bool,
    },
    /// Start the worker, and welcome it like this.
    Start {
        /// The answer to its `Hello`.
        welcome: ToWorker,
    },
    /// Send this to the worker.
    Tell(ToWorker),
    /// Take back a task through the worker's page, and answer with [`FromWorker::Recalled`].
    Recall {
        /// Which task.
        lease: Lease,
        /// Its place in the page.
        slot: u16,
    },
    /// End the worker, if there is one, with all that it started: then [`AgentHalf::died`].
    Kill,
    /// End the worker, if there is one, with all that it started, and the agent.
    End {
        /// Why, if the host has not simply said so; for people.
        why: Option<String>,
        /// That is not as it should be.
        fault: bool,
    },
}

/// Where an agent stands towards its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It has no connection since then, and dials, or will dial at its timeout.
    Away { since: Time, dialling: bool },
    /// It has had no connection that counts since then, has greeted, and waits until then for the answer.
    Greeted { since: Time, until: Time },
    /// It has a session on this connection.
    Joined,
    /// It has ended.
    Over,
}

/// What an agent knows of its present worker.
#[derive(Debug, Default)]
struct Turn {
    session: Option<(u64, Secret)>,
    talk: Session<FromAgent, ToAgent>,
    /// Places in the page of what the worker was dealt and has not answered.
    slots: BTreeMap<Lease, u16>,
    started: Option<Time>,
    /// It has finished a task.
    useful: bool,
    dead: bool,
}

/// The agent's half: what it owes its host, and its worker. Pure; the hands move bytes and keep the process.
///
/// Everything from the host goes through [`AgentHalf::hear`], everything of the worker through [`AgentHalf::said`] (a
/// `Hello` of it too); its segments are read out and given back by the hands. After each call carry out
/// [`AgentHalf::next_order`], send [`AgentHalf::write`] while the socket takes bytes, and come back with
/// [`AgentHalf::tick`] at [`AgentHalf::next_timeout`].
#[derive(Debug)]
pub struct AgentHalf {
    stand: Stand,
    turn: Turn,
    /// It has had a worker before: to be let in no more is nobody's fault.
    again: bool,
    /// Its host wants no worker of it after this one.
    last: bool,
    /// A launcher has started it, for one worker: that replaces the worker itself.
    once: bool,
    silence: Duration,
    reconnect: Duration,
    heard: Time,
    /// Before it dials again, and before it calls for another worker.
    pause: Duration,
    rest: Duration,
    /// When to dial again.
    redial: Time,
    orders: VecDeque<Order>,
}

impl AgentHalf {
    /// One that dials, for so long at most, until it is let in; `once`: for one worker, not for one after the other.
    pub fn new(now: Time, patience: Duration, once: bool) -> Self {
        Self {
            stand: Stand::Away { since: now, dialling: true },
            turn: Turn::default(),
            again: false,
            last: false,
            once,
            silence: ANSWER,
            reconnect: patience,
            heard: now,
            pause: PAUSE_MIN,
            rest: PAUSE_MIN,
            redial: now,
            orders: VecDeque::from([Order::Dial]),
        }
    }

    /// What to do now, in this order.
    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// The connection stands, and the host's certificate is the right one.
    pub fn connected(&mut self, now: Time) {
        if let Stand::Away { since, .. } = self.stand {
            self.stand = Stand::Greeted { since, until: now.after(ANSWER) };
            let session = self.turn.session.clone().map(|(session, key)| (session, key, self.turn.talk.received()));
            self.orders.push_back(Order::Greet { session });
        }
    }

    /// The connection has ended, or did not come about.
    pub fn disconnected(&mut self, now: Time) {
        let since = match self.stand {
            // An attempt that fails does not begin the time anew.
            Stand::Away { since, .. } | Stand::Greeted { since, .. } => since,
            Stand::Joined => {
                self.pause = PAUSE_MIN;
                now
            }
            Stand::Over => return,
        };
        if self.last {
            // The host takes whoever is leaving and hangs up for gone.
            return self.end(None, false);
        }
        self.turn.talk.cut();
        self.stand = Stand::Away { since, dialling: false };
        self.redial = now.after(self.pause).min(since.after(self.reconnect));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// The connection did not come about, for nobody listens there.
    pub fn unanswered(&mut self, now: Time) {
        if matches!(self.stand, Stand::Away { .. }) && self.is_between() {
            return self.end(Some("its controller has ended".into()), false);
        }
        self.disconnected(now);
    }

    /// It has had a worker, and has none now: whatever its host is at, nothing is lost.
    fn is_between(&self) -> bool {
        self.turn.dead || self.again && self.turn.session.is_none()
    }

    /// The host says something.
    ///
    /// # Errors
    /// It makes no sense here: close the connection, and say [`AgentHalf::disconnected`].
    pub fn hear(&mut self, now: Time, message: ToAgent) -> Result<(), FrameError> {
        self.heard = now;
        match (self.stand, message) {
            (Stand::Over | Stand::Away { .. }, _) => {}
            // The host had heard of the worker's end, or has waited too long for it.
            (Stand::Greeted { .. }, ToAgent::Worker(ToWorker::Refuse { .. }))
                if self.turn.dead && self.turn.session.is_some() =>
            {
                self.go_on(now);
            }
            (_, ToAgent::Worker(ToWorker::Refuse { reason })) => self.end(Some(reason), !self.is_between()),
            (Stand::Greeted { .. }, ToAgent::Session { session, key, silence, reconnect })
                if self.turn.session.is_none() =>
            {
                self.turn.session = Some((session, key));
                self.silence = Duration::from_millis(silence);
                self.reconnect = Duration::from_millis(reconnect);
                self.stand = Stand::Joined;
            }
            (Stand::Greeted { .. }, ToAgent::Resumed { received }) if self.turn.session.is_some() => {
                self.turn.talk.resume(received)?;
                self.stand = Stand::Joined;
            }
            (Stand::Joined, message) => {
                if self.turn.talk.hear(&message)? {
                    self.obey(now, message)?;
                } else if self.turn.dead && self.turn.talk.kept() == 0 {
                    self.go_on(now);
                }
            }
            (Stand::Greeted { .. }, _) => return Err(FrameError::Misplaced),
        }
        Ok(())
    }

    /// The host knows of the worker's end: calls for another one, if it is wanted.
    fn go_on(&mut self, now: Time) {
        if self.last || self.once {
            return self.end(None, false);
        }
        let Turn { started, useful, .. } = std::mem::take(&mut self.turn);
        self.again = true;
        if useful || started.is_some_and(|started| now.since(started) >= PAUSE_MAX) {
            self.rest = PAUSE_MIN;
        }
        self.redial = now.after(self.rest);
        self.rest = (self.rest * 2).min(PAUSE_MAX);
        self.pause = PAUSE_MIN;
        self.stand = Stand::Away { since: self.redial, dialling: false };
        self.orders.push_back(Order::HangUp { silent: false });
    }

    fn obey(&mut self, now: Time, message: ToAgent) -> Result<(), FrameError> {
        match message {
            ToAgent::Worker(ToWorker::Ping) => self.turn.talk.send(FromAgent::Worker(FromWorker::Heartbeat)),
            ToAgent::Worker(welcome @ ToWorker::Welcome { .. }) if self.turn.started.is_none() && !self.turn.dead => {
                self.turn.started = Some(now);
                self.orders.push_back(Order::Start { welcome });
            }
            ToAgent::Worker(ToWorker::Recall { lease }) => {
                if let Some(slot) = self.turn.slots.get(&lease) {
                    self.orders.push_back(Order::Recall { lease, slot: *slot });
                }
            }
            ToAgent::Worker(message) => {
                if let ToWorker::Run { lease, slot, .. } | ToWorker::Prepare { lease, slot, .. } = &message {
                    self.turn.slots.insert(*lease, *slot);
                }
                self.last |= matches!(message, ToWorker::Stop { leave: Leave::Idle | Leave::Closing });
                self.orders.push_back(Order::Tell(message));
            }
            ToAgent::End { again } => {
                self.last |= !again;
                self.orders.extend((!self.turn.dead).then_some(Order::Kill));
            }
            ToAgent::Session { .. } | ToAgent::Resumed { .. } | ToAgent::Ack { .. } => {
                return Err(FrameError::Misplaced);
            }
        }
        Ok(())
    }

    /// The worker says something, or its page does.
    pub fn said(&mut self, message: FromWorker) {
        match &message {
            FromWorker::Finished { lease, .. }
            | FromWorker::Prepared { lease, .. }
            | FromWorker::Recalled { lease, back: true } => {
                self.turn.useful |= matches!(message, FromWorker::Finished { .. });
                self.turn.slots.remove(lease);
            }
            // Of reports that wait for a connection the last one counts.
            FromWorker::Report { lease, .. } => {
                let lease = *lease;
                let older = |other: &FromAgent| matches!(other, FromAgent::Worker(FromWorker::Report { lease: other, .. }) if *other == lease);
                self.turn.talk.replace(FromAgent::Worker(message), older);
                return;
            }
            // Its hands deal with these: the host knows nothing of its segments.
            FromWorker::Heartbeat | FromWorker::Lend { .. } | FromWorker::Returned { .. } => return,
            // The host has welcomed it already, and learns who it is.
            FromWorker::Hello { .. }
            | FromWorker::Retire
            | FromWorker::Recalled { back: false, .. }
            | FromWorker::Declare { .. }
            | FromWorker::Withdraw { .. }
            | FromWorker::Submit { .. }
            | FromWorker::Cancel { .. }
            | FromWorker::Release { .. }
            | FromWorker::Wait { .. }
            | FromWorker::Resume { .. } => {}
        }
        self.turn.talk.send(FromAgent::Worker(message));
    }

    /// The worker's process has ended, and everything that it had composed was told.
    pub fn died(&mut self, begun: Option<Lease>, certificate: Certificate) {
        if !self.turn.dead {
            self.turn.dead = true;
            self.turn.talk.send(FromAgent::Died { begun, certificate });
        }
    }

    fn end(&mut self, why: Option<String>, fault: bool) {
        self.stand = Stand::Over;
        self.orders.push_back(Order::End { why, fault });
    }

    /// Appends the next frame for the host. False: there is none, or no connection.
    pub fn write(&mut self, out: &mut Vec<u8>) -> bool {
        self.stand == Stand::Joined && self.turn.talk.write(out)
    }

    /// When to come back at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        match self.stand {
            Stand::Away { dialling: false, .. } => Some(self.redial),
            // Whoever dials has a limit of its own; after it `disconnected` comes.
            Stand::Away { dialling: true, .. } | Stand::Over => None,
            Stand::Greeted { until, .. } => Some(until),
            Stand::Joined => Some(self.heard.after(self.silence)),
        }
    }

    /// A timeout is due.
    pub fn tick(&mut self, now: Time) {
        if self.next_timeout().is_none_or(|due| now < due) {
            return;
        }
        match self.stand {
            Stand::Away { since, .. } if now >= since.after(self.reconnect) => {
                let seconds = self.reconnect.as_secs_f64();
                let why = format!("the host could not be reached for {seconds} s: it has ended, or the network fails");
                self.end(Some(why), !self.is_between());
            }
            Stand::Away { since, .. } => {
                self.stand = Stand::Away { since, dialling: true };
                self.orders.push_back(Order::Dial);
            }
            Stand::Greeted { .. } | Stand::Joined => {
                self.orders.push_back(Order::HangUp { silent: true });
                self.disconnected(now);
            }
            Stand::Over => {}
        }
    }
}

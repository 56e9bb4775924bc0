//! The hands of kumi: sockets, processes, shared pages, threads and the only clock.
//!
//! May not know: Python. Decides nothing: every rule is in `kumi-core`.
//! - Host: [`pool`] (the brain behind its lock), `act` (carrying out what it wants), `hear` (what workers say),
//!   [`wait`] (threads that wait), `seats` (who they are, the baton), [`inbox`] (event loops that wait), `release` (what nobody holds), `io` (the I/O thread), `desk` (what other terminals ask), `link` (one worker), [`orders`] (for launchers), [`deliver`] (news for Python), [`fork`].
//! - Worker: [`worker`], [`outbox`], [`reports`] (what tasks say while they run), [`watchdog`], [`memory`] and `nap` (how much it has).
//! - Agent: [`agent`] (its one loop), `line` (to the host), `ward` (its worker), `outlet` (what that writes), `signals`.
//! - Remote workers: [`gate`] (who dials in), `remote` (their sessions), [`stream`] (connections), [`tls`] (certificates), [`proof`] (secrets).
//! - Whoever starts workers, a host or an agent: `child` (one process), [`spawn`], [`process`] (death and burial).
//! - They and their workers: [`page`] (the memory they share), `slot` (a task in it), [`groups`] (how much memory there is), [`segments`] (large buffers), [`parcel`] (payloads with such), `stock` (which are used again), `fds` (descriptors on sockets).

mod act;
pub mod agent;
mod backup;
pub mod berths;
mod child;
pub mod deliver;
mod desk;
mod epoll;
mod fds;
pub mod fork;
pub mod gate;
pub mod groups;
mod hear;
pub mod inbox;
mod io;
mod line;
mod link;
pub mod log;
pub mod memory;
mod nap;
pub mod orders;
pub mod outbox;
mod outlet;
pub mod page;
pub mod parcel;
pub mod pool;
pub mod process;
pub mod proof;
mod release;
mod remote;
pub mod reports;
mod seats;
pub mod segments;
mod signals;
mod slot;
pub mod spawn;
mod stock;
pub mod stream;
mod sys;
pub mod tls;
pub mod wait;
mod ward;
pub mod watchdog;
pub mod worker;

/// Those of the files that tests/model.rs compiles against others.
mod atomics {
    pub use std::sync::atomic::{AtomicBool, AtomicU64};
}

//! What is ordered before what: streams, events and the host.
//!
//! Operations run when they are submitted, which is one of the orders that a GPU could choose. Any other order that it
//! could choose gives the same result unless two operations that nothing orders touch the same memory, and that is
//! found here, whatever the timing: every operation has a place in its stream, and every stream a [`Clock`] that says
//! how far it knows the work of every other to be done. Memory is looked at by allocation, as a stream's tool would be
//! told by a program that hands whole buffers from one stream to another.

use super::launch::What;
use crate::Error;
use crate::memory::Memory;
use std::collections::HashMap;

/// How much of each stream's work is known to be done, by the streams' numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock(Vec<u64>);

impl Clock {
    /// Knows what `other` knows, too.
    pub fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Whether the operation at `place` is known to be done.
    pub fn knows(&self, place: Place) -> bool {
        self.0.get(place.stream).is_some_and(|at| *at >= place.at)
    }

    fn set(&mut self, place: Place) {
        if self.0.len() <= place.stream {
            self.0.resize(place.stream + 1, 0);
        }
        self.0[place.stream] = place.at;
    }
}

/// Where an operation stands: number of its stream, and its own number there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub stream: usize,
    pub at: u64,
}

/// An operation's place and what is known to be done before it.
pub struct Turn {
    pub place: Place,
    pub clock: Clock,
}

/// A stream.
pub struct Stream {
    number: usize,
    /// Whether it and the legacy stream wait for each other.
    pub is_blocking: bool,
    pub clock: Clock,
    /// The capture that it takes part in, and the nodes there that its next one follows.
    pub capture: Option<(usize, Vec<usize>)>,
    /// Its clock when somebody asked last whether it was done.
    pub asked: Option<Clock>,
}

/// The last accesses to an allocation.
#[derive(Default)]
struct Accesses {
    write: Option<(Place, What)>,
    /// One per stream: the last since the write.
    reads: Vec<(Place, What)>,
}

/// How an operation accesses an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Everything that decides what is ordered.
pub struct Order {
    pub streams: HashMap<usize, Stream>,
    /// Operations so far, by number of the stream.
    counts: Vec<u64>,
    /// What the host has waited for. Threads of a program are taken to tell each other.
    pub host: Clock,
    /// What the legacy stream has done, which blocking streams wait for.
    legacy: Clock,
    accesses: HashMap<usize, Accesses>,
}

impl Order {
    /// The legacy stream, with handle 0, and no other.
    pub fn new() -> Order {
        let mut order = Order {
            streams: HashMap::new(),
            counts: Vec::new(),
            host: Clock::default(),
            legacy: Clock::default(),
            accesses: HashMap::new(),
        };
        order.add(0, true);
        order
    }

    /// A new stream under a handle.
    pub fn add(&mut self, handle: usize, is_blocking: bool) {
        let stream = Stream {
            number: self.lane(),
            is_blocking,
            clock: Clock::default(),
            capture: None,
            asked: None,
        };
        self.streams.insert(handle, stream);
    }

    /// A number for work of its own, such as a branch of a graph.
    pub fn lane(&mut self) -> usize {
        self.counts.push(0);
        self.counts.len() - 1
    }

    /// The next place in a stream or branch.
    pub fn place(&mut self, number: usize) -> Place {
        self.counts[number] += 1;
        let at = self.counts[number];
        Place { stream: number, at }
    }

    /// What the next operation of a stream comes after, and the stream's number; none where there is no such stream.
    pub fn before(&mut self, handle: usize) -> Option<(usize, Clock)> {
        let stream = self.streams.get(&handle)?;
        let mut clock = stream.clock.clone();
        clock.join(&self.host);
        if handle == 0 {
            let blocking = self.streams.values().filter(|s| s.is_blocking);
            blocking.for_each(|s| clock.join(&s.clock));
        } else if stream.is_blocking {
            clock.join(&self.legacy);
        }
        Some((stream.number, clock))
    }

    /// An operation takes its place in a stream.
    pub fn turn(&mut self, handle: usize) -> Option<Turn> {
        let (number, mut clock) = self.before(handle)?;
        let place = self.place(number);
        clock.set(place);
        self.after(handle, &clock);
        Some(Turn { place, clock })
    }

    /// An operation at a place of its own, after all that `clock` knows.
    pub fn turn_at(&mut self, number: usize, mut clock: Clock) -> Turn {
        let place = self.place(number);
        clock.set(place);
        Turn { place, clock }
    }

    /// What comes next in a stream comes after all that `clock` knows.
    pub fn after(&mut self, handle: usize, clock: &Clock) {
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.clock.join(clock);
        }
        if handle == 0 {
            self.legacy.join(clock);
        }
    }

    /// Everything submitted so far.
    pub fn everything(&self) -> Clock {
        let mut clock = self.host.clone();
        self.streams.values().for_each(|s| clock.join(&s.clock));
        clock
    }

    /// Notes an access and checks it against those before.
    ///
    /// # Errors
    /// [`Error::Order`] names both operations.
    pub fn access(
        &mut self,
        memory: &Memory,
        allocation: usize,
        access: Access,
        turn: &Turn,
        what: &What,
    ) -> Result<(), Error> {
        let Accesses { write, reads } = self.accesses.entry(allocation).or_default();
        let race = |other: &(Place, What), was: &str| {
            let verb = match access {
                Access::Read => "reads",
                Access::Write => "writes",
            };
            Err(Error::Order(format!(
                "race between streams: {what} in stream {} {verb} {} after {} in stream {} {was} it, and nothing orders \
                 the two",
                turn.place.stream,
                memory.describe(memory.allocation(allocation).base),
                other.1,
                other.0.stream,
            )))
        };
        if let Some(write) = write
            && !turn.clock.knows(write.0)
        {
            return race(write, "wrote");
        }
        if access == Access::Read {
            reads.retain(|(place, _)| place.stream != turn.place.stream);
            reads.push((turn.place, what.clone()));
            return Ok(());
        }
        if let Some(read) = reads.iter().find(|(place, _)| !turn.clock.knows(*place)) {
            return race(read, "read");
        }
        reads.clear();
        *write = Some((turn.place, what.clone()));
        Ok(())
    }

    /// Checks that everything done with an allocation is known to be done, and forgets it.
    ///
    /// # Errors
    /// [`Error::Order`].
    pub fn forget(
        &mut self,
        memory: &Memory,
        allocation: usize,
        clock: &Clock,
    ) -> Result<(), Error> {
        let Some(Accesses { write, reads }) = self.accesses.remove(&allocation) else {
            return Ok(());
        };
        match write
            .iter()
            .chain(&reads)
            .find(|(place, _)| !clock.knows(*place))
        {
            None => Ok(()),
            Some((place, what)) => Err(Error::Order(format!(
                "{} is freed while {what} in stream {} may still use it: nothing orders the two",
                memory.describe(memory.allocation(allocation).base),
                place.stream
            ))),
        }
    }
}

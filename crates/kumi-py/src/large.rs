//! Payloads with large parts: from Python's buffers into shared memory, and as buffers of Python's again.
//!
//! `serial.Parcel` is what Python hands in: a pickle in pieces, and the buffers that it left out. What travels is a small
//! payload and, if there is one, a segment. Without a segment everything is in the payload. How either looks is said in
//! `kumi-net`'s `parcel.rs`.

use std::ffi::c_int;
use std::slice;
use std::sync::Arc;

use kumi_core::{FunctionId, Large, Payload, SegmentId};
use kumi_net::segments::{LARGE, Memory, Piece, Segment};
use kumi_net::{groups, parcel, pool};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::inside::detached;
use crate::pool::Function;

/// See the stub.
#[pyclass(frozen, module = "kumi._core", name = "Memory")]
pub struct Shown {
    memory: Arc<dyn Memory>,
}

impl Shown {
    pub fn new(memory: Arc<dyn Memory>) -> Self {
        Self { memory }
    }
}

#[pymethods]
impl Shown {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (start, length) = slf.get().memory.memory();
        let length = isize::try_from(length).map_err(|_| PyBufferError::new_err("too long"))?;
        // SAFETY: Python gives a view to fill in, which then holds a reference to us; the memory lives as long as we do.
        // It is private to this process: whoever writes to it disturbs nobody.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast(), length, 0, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// A payload as Python made it.
pub enum Made<'py> {
    Small(Payload),
    Large(Parts<'py>),
}

/// Pieces of a pickle, buffers, and the shared values that both name.
pub struct Parts<'py> {
    py: Python<'py>,
    head: Vec<PyUntypedBuffer>,
    buffers: Vec<PyUntypedBuffer>,
    uses: Vec<FunctionId>,
}

/// A payload, ready to be sent.
pub struct Packed {
    pub payload: Payload,
    pub segment: Option<(SegmentId, u64)>,
}

impl<'py> Made<'py> {
    pub fn of(payload: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = payload.cast::<PyBytes>() {
            return Ok(Made::Small(Arc::from(bytes.as_bytes())));
        }
        let buffers = |name: &str| -> PyResult<Vec<PyUntypedBuffer>> {
            payload.getattr(name)?.try_iter()?.map(|buffer| PyUntypedBuffer::get(&buffer?)).collect()
        };
        let uses = payload.getattr("uses")?;
        let uses = uses.try_iter()?.map(|function| Ok(function?.cast::<Function>()?.get().id()));
        Ok(Made::Large(Parts {
            py: payload.py(),
            head: buffers("head")?,
            buffers: buffers("buffers")?,
            uses: uses.collect::<PyResult<_>>()?,
        }))
    }

    /// How many bytes it has in all.
    pub fn bytes(&self) -> u64 {
        match self {
            Made::Small(payload) => payload.len() as u64,
            Made::Large(parts) => parts.bytes() as u64,
        }
    }
}

impl Parts<'_> {
    fn bytes(&self) -> usize {
        self.head.iter().chain(&self.buffers).map(PyUntypedBuffer::len_bytes).sum()
    }

    fn head_bytes(&self) -> usize {
        self.head.iter().map(PyUntypedBuffer::len_bytes).sum()
    }

    /// Puts what is large into a segment, if `reserve` gives one for so many bytes, and all else into the payload.
    pub fn pack<S: AsRef<Segment> + Send>(self, reserve: impl FnOnce(u64) -> Option<(SegmentId, S)> + Send) -> Packed {
        let alone = self.head_bytes() >= LARGE;
        let buffers: Vec<usize> = self.buffers.iter().map(PyUntypedBuffer::len_bytes).collect();
        let lengths: Vec<usize> = alone.then(|| self.head_bytes()).into_iter().chain(buffers.iter().copied()).collect();
        // Of what lies in memory the sum is no number that does not exist.
        let (starts, end) = parcel::places(&lengths).unwrap_or_default();
        let segment = if end < LARGE { None } else { self.fill(end as u64, &self.pieces(alone, &starts), reserve) };
        let mut payload = Vec::new();
        if segment.is_some() {
            if !alone {
                self.append(&self.head, &mut payload);
            }
            parcel::seal_split(&mut payload, &lengths, alone);
        } else {
            payload.reserve_exact(self.bytes() + 8 * (buffers.len() + self.uses.len()) + 10);
            self.append(&self.head, &mut payload);
            self.append(&self.buffers, &mut payload);
            parcel::seal_whole(&mut payload, &buffers);
        }
        add_uses(&mut payload, &self.uses);
        Packed { payload: Arc::from(payload), segment: segment.map(|segment| (segment, end as u64)) }
    }

    /// What goes into a segment where. The pieces of the pickle follow each other without gaps.
    fn pieces(&self, alone: bool, starts: &[usize]) -> Vec<Piece> {
        let mut to = 0;
        let head = alone.then_some(&self.head).into_iter().flatten().map(|buffer| {
            let piece = Piece { from: buffer.buf_ptr().cast(), length: buffer.len_bytes(), to };
            to += buffer.len_bytes();
            piece
        });
        let mut pieces: Vec<Piece> = head.collect();
        let buffers = self.buffers.iter().zip(starts.iter().skip(usize::from(alone)));
        pieces.extend(buffers.map(|(buffer, to)| Piece {
            from: buffer.buf_ptr().cast(),
            length: buffer.len_bytes(),
            to: *to,
        }));
        pieces
    }

    fn fill<S: AsRef<Segment> + Send>(
        &self,
        bytes: u64,
        pieces: &[Piece],
        reserve: impl FnOnce(u64) -> Option<(SegmentId, S)> + Send,
    ) -> Option<SegmentId> {
        detached(self.py, || {
            let (segment, memory) = reserve(bytes)?;
            // SAFETY: `self` holds the buffers, so they stay where they are; the segment is ours alone until it is sent.
            // That another thread writes to a buffer meanwhile is the user's own race, and harms only what it copies.
            unsafe { memory.as_ref().write(pieces) };
            Some(segment)
        })
    }

    fn append(&self, buffers: &[PyUntypedBuffer], payload: &mut Vec<u8>) {
        for buffer in buffers.iter().filter(|buffer| buffer.len_bytes() > 0) {
            // SAFETY: Python gave address and length of memory that stays while the buffer is held, and this thread has the GIL.
            payload.extend_from_slice(unsafe { slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes()) });
        }
    }
}

fn add_uses(payload: &mut Vec<u8>, uses: &[FunctionId]) {
    let numbers: Vec<u64> = uses.iter().map(|function| function.number()).collect();
    parcel::seal_shares(payload, &numbers);
}

/// See the stub.
#[pyclass(frozen, module = "kumi._core")]
pub struct Stored {
    payload: Payload,
    memory: Option<(Arc<Segment>, u64)>,
}

impl Stored {
    /// With everything in itself: for who cannot map its memory.
    fn whole(&self) -> std::io::Result<Vec<u8>> {
        let Some((memory, bytes)) = &self.memory else { return Ok(self.payload.to_vec()) };
        let mapping = memory.map(*bytes)?;
        let (start, length) = mapping.memory();
        // SAFETY: the mapping lives to the end of this function, and nobody writes to what was stored.
        let memory = unsafe { slice::from_raw_parts(start, length) };
        parcel::whole(&self.payload, memory).ok_or_else(|| std::io::Error::other("its parts are not where they were"))
    }
}

#[pymethods]
impl Stored {
    #[new]
    #[pyo3(signature = (payload, /))]
    fn new(payload: &Bound<'_, PyAny>) -> PyResult<Self> {
        let parts = match Made::of(payload)? {
            Made::Small(payload) => return Ok(Self { payload, memory: None }),
            Made::Large(parts) => parts,
        };
        let mut made = None;
        let reserve = |bytes| {
            let memory = Arc::new(Segment::create(bytes).ok()?);
            made = Some((Arc::clone(&memory), bytes));
            Some((SegmentId::from_number(0), memory))
        };
        let payload = parts.pack(reserve).payload;
        Ok(Self { payload, memory: made })
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.payload)
    }

    fn memory(&self) -> PyResult<Option<Shown>> {
        let map = |(memory, bytes): &(Arc<Segment>, u64)| Ok(Shown::new(Arc::new(memory.map(*bytes)?)));
        self.memory.as_ref().map(map).transpose()
    }
}

/// A payload that was packed for a pool, and its segment until that has been handed over.
pub struct Entry<'a> {
    net: &'a pool::Pool,
    pub payload: Payload,
    large: Option<Box<Large>>,
}

impl<'a> Entry<'a> {
    pub fn new(net: &'a pool::Pool, made: Made<'_>) -> Self {
        match made {
            Made::Small(payload) => Self { net, payload, large: None },
            Made::Large(parts) => {
                let uses = parts.uses.clone();
                let Packed { payload, segment } = parts.pack(|bytes| net.reserve(bytes));
                Self { net, payload, large: Some(Box::new(Large { segment, uses })) }
            }
        }
    }

    pub fn of_stored(net: &'a pool::Pool, stored: &Stored, uses: Vec<FunctionId>) -> std::io::Result<Self> {
        let adopted = |(memory, bytes): &(Arc<Segment>, u64)| Some((net.adopt(memory, *bytes)?, *bytes));
        let segment = stored.memory.as_ref().and_then(adopted);
        let mut payload = if segment.is_some() { stored.payload.to_vec() } else { stored.whole()? };
        add_uses(&mut payload, &uses);
        Ok(Self { net, payload: Arc::from(payload), large: Some(Box::new(Large { segment, uses })) })
    }

    pub fn large(&self) -> Option<Box<Large>> {
        self.large.clone()
    }

    /// The brain has it now.
    pub fn handed_over(mut self) {
        self.large = None;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some((segment, _)) = self.large.as_ref().and_then(|large| large.segment) {
            self.net.release_segment(segment);
        }
    }
}

/// See the stub.
#[pyfunction]
pub fn memory_bytes() -> u64 {
    groups::memory_bytes()
}

//! The only `unsafe` of the gateway: io_uring submission and the provided-buffer ring, behind calls that cannot break memory.
//!
//! What the kernel reads or writes is owned here: the memory of received bytes, the bytes being sent and the eight bytes of the wake-up read
//! belong to [`Uring`] from submission to completion. Descriptors are borrowed for the call only; the caller keeps them open until the last
//! completion of the connection (a closed one would fail the request, it could not break memory).

#![expect(unsafe_code, reason = "the kernel reads and writes memory behind the compiler's back; see the head of this file")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

/// Group of the provided buffers; one ring has one group.
const BUFFER_GROUP: u16 = 0;
/// Alignment the kernel asks of a buffer ring. Unit: bytes.
const PAGE_BYTES: usize = 4096;
/// Alignment of receive buffers: what every allocation has. For a stricter one the standard library fills zeroed memory itself, which touches
/// all 4 MiB of it at each start instead of when bytes arrive.
const DATA_ALIGN: usize = 16;

/// How often a full queue is offered to a kernel that cannot take it right now; then the ring has failed.
const PUSH_TRIES_MAX: u32 = 10_000;

/// Sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingOptions {
    /// Submission entries; a power of two.
    pub(super) entries: u32,
    /// Completion entries; a power of two.
    pub(super) completions: u32,
    /// Receive buffers; a power of two, at most 32,768. 0: none, the ring cannot receive.
    pub(super) buffers: u16,
    /// Size of a receive buffer. Unit: bytes.
    pub(super) buffer_bytes: usize,
}

/// The ring could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `io_uring_setup` failed: switched off (`kernel.io_uring_disabled`), forbidden by seccomp, or a kernel before 5.19.
    #[error("io_uring cannot be set up")]
    Setup(#[source] io::Error),
    /// The kernel does not tell which operations it has.
    #[error("io_uring cannot be probed")]
    Probe(#[source] io::Error),
    /// The kernel lacks an operation.
    #[error("this kernel's io_uring lacks {0} (Linux 6.0 or newer is needed)")]
    Missing(&'static str),
    /// The receive buffers could not be registered.
    #[error("io_uring cannot register a ring of receive buffers (Linux 5.19 or newer is needed)")]
    Buffers(#[source] io::Error),
}

/// One completion.
#[derive(Debug)]
pub(super) struct Completion {
    /// Token of the request.
    pub(super) token: u64,
    /// Result, or the negative error number.
    pub(super) result: i32,
    /// Receive buffer that was filled.
    pub(super) buffer: Option<u16>,
    /// The request lives on and will complete again.
    pub(super) more: bool,
}

impl Completion {
    /// The socket that an accept has made. Only for completions of [`Uring::accept`].
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        if self.result < 0 {
            return Err(io::Error::from_raw_os_error(-self.result));
        }
        // SAFETY: the result of an accept is a new descriptor of this process, and this completion, used up here, is its only owner.
        Ok(unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

/// An io_uring with one ring of receive buffers.
pub(super) struct Uring {
    ring: IoUring,
    buffers: Option<Buffers>,
    /// Bytes being sent, by sender slot: at most one send per slot is under way.
    sends: Vec<Option<Vec<u8>>>,
    sends_open: usize,
    /// Completions taken to make room while a request was queued, for the next [`Uring::enter`].
    early: Vec<Completion>,
    /// Target of the wake-up read; `wake_armed` while the kernel may write to it.
    wake: Box<[u8; 8]>,
    wake_armed: bool,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("sends_open", &self.sends_open).finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for the calling thread, which must be the one that uses it.
    pub(super) fn new(options: RingOptions) -> Result<Self, RingError> {
        let ring = build(options)?;
        check_operations(&ring)?;
        let buffers = match options.buffers {
            0 => None,
            count => Some(Buffers::register(&ring, count, options.buffer_bytes)?),
        };
        Ok(Self { ring, buffers, sends: Vec::new(), sends_open: 0, early: Vec::new(), wake: Box::new([0; 8]), wake_armed: false })
    }

    /// Accepts connections until cancelled.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry, token)
    }

    /// Receives into provided buffers until cancelled, an error or a lack of buffers.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        assert!(self.buffers.is_some(), "a ring without buffers cannot receive");
        self.push(opcode::RecvMulti::new(Fd(socket.as_raw_fd()), BUFFER_GROUP).build(), token)
    }

    /// Sends `bytes[from..]`. The bytes come back from [`Uring::sent`] after the completion; `slot` names them.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, slot: usize, bytes: Vec<u8>, from: usize, token: u64) -> io::Result<()> {
        if self.sends.len() <= slot {
            self.sends.resize_with(slot + 1, || None);
        }
        let held = self.sends.get_mut(slot).expect("the vector was grown to hold the slot");
        assert!(held.is_none(), "one send per slot at a time");
        // Moving the vector into its place does not move its heap memory, which nobody touches until `sent` takes it out again.
        let rest = held.insert(bytes).get(from..).expect("the start lies inside the bytes");
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
        self.sends_open += 1;
        let pushed = self.push(entry, token);
        if pushed.is_err() {
            // The kernel never saw the request: no completion will come for these bytes, and the slot's next send must not meet them.
            drop(self.sent(slot));
        }
        pushed
    }

    /// The bytes of a send that has completed.
    pub(super) fn sent(&mut self, slot: usize) -> Vec<u8> {
        let bytes = self.sends.get_mut(slot).and_then(Option::take).expect("a send of this slot has completed");
        self.sends_open -= 1;
        bytes
    }

    /// Reads the eight bytes of an event descriptor: completes when somebody has written to it.
    pub(super) fn read_event(&mut self, event: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        assert!(!self.wake_armed, "one wake-up read at a time");
        self.wake_armed = true;
        let entry = opcode::Read::new(Fd(event.as_raw_fd()), self.wake.as_mut_ptr(), 8).build();
        self.push(entry, token)
    }

    /// The wake-up read has completed.
    pub(super) fn event_read(&mut self) {
        self.wake_armed = false;
    }

    /// Cancels everything that is under way on a descriptor; each request still completes.
    pub(super) fn cancel(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.push(opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd.as_raw_fd())).all()).build(), token)
    }

    /// Cancels the one request with this token; it still completes.
    pub(super) fn cancel_one(&mut self, target: u64, token: u64) -> io::Result<()> {
        self.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build(), token)
    }

    /// Submits what was asked for, waits until something has completed or the time is over, and appends the completions.
    pub(super) fn enter(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let wait = if self.early.is_empty() { wait } else { Some(Duration::ZERO) };
        // Deferred completions are only produced by a call that waits for at least one: a zero time makes it a look.
        let result = match wait {
            Some(time) => {
                let time = Timespec::from(time);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
            None => self.ring.submit_and_wait(1),
        };
        out.append(&mut self.early);
        reap(&mut self.ring, out);
        match result {
            Err(err) if err.raw_os_error() != Some(libc::ETIME) && !passes(&err) => Err(err),
            _ => Ok(()),
        }
    }

    /// The first `len` bytes of a receive buffer that a completion named.
    pub(super) fn received(&self, buffer: u16, len: usize) -> &[u8] {
        self.buffers.as_ref().map_or(&[], |b| b.held(buffer, len))
    }

    /// Gives a receive buffer back to the kernel. Nothing may look at its bytes any more: the borrow of [`Uring::received`] has ended.
    pub(super) fn recycle(&mut self, buffer: u16) {
        if let Some(buffers) = &mut self.buffers {
            buffers.give(buffer);
        }
    }

    /// Queues a request; when the queue is full, the kernel takes it first. A lack that passes is waited out, for [`PUSH_TRIES_MAX`] tries.
    fn push(&mut self, entry: squeue::Entry, token: u64) -> io::Result<()> {
        let entry = entry.user_data(token);
        let mut tries = 0;
        loop {
            // SAFETY: every pointer inside `entry` is to memory that `self` owns and keeps until the request has completed, or is null.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(err) if passes(&err) && tries < PUSH_TRIES_MAX => {
                    tries += 1;
                    // Completions that wait may be what the kernel lacks room for.
                    reap(&mut self.ring, &mut self.early);
                    std::thread::yield_now();
                }
                Err(err) => return Err(err),
            }
        }
    }
}

/// A signal; completions that must be taken first; no memory for requests at this moment.
fn passes(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// Takes the completions that have come.
fn reap(ring: &mut IoUring, out: &mut Vec<Completion>) {
    out.extend(ring.completion().map(|entry| Completion {
        token: entry.user_data(),
        result: entry.result(),
        buffer: cqueue::buffer_select(entry.flags()),
        more: cqueue::more(entry.flags()),
    }));
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still read these bytes while it tears the ring down: they are given up rather than freed.
        if self.sends_open > 0 {
            std::mem::forget(std::mem::take(&mut self.sends));
        }
        if self.wake_armed {
            std::mem::forget(std::mem::replace(&mut self.wake, Box::new([0; 8])));
        }
        if let Some(buffers) = self.buffers.take() {
            match self.ring.submitter().unregister_buf_ring(BUFFER_GROUP) {
                // The region is only written to by requests that hold a buffer; those end with the ring, later than this. It is given up.
                Ok(()) | Err(_) => std::mem::forget(buffers),
            }
        }
    }
}

/// A ring with the best flags this kernel has: completions run on our own time where possible.
fn build(options: RingOptions) -> Result<IoUring, RingError> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(options.completions).setup_submit_all().setup_single_issuer();
    let best = builder.clone().setup_defer_taskrun().build(options.entries);
    match best {
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("kernel without deferred task run: cooperative task run is used");
            IoUring::builder().setup_cqsize(options.completions).setup_coop_taskrun().build(options.entries).map_err(RingError::Setup)
        }
        other => other.map_err(RingError::Setup),
    }
}

/// Multishot receive came with zero-copy send (Linux 6.0) and has no probe of its own, so the latter stands for it.
fn check_operations(ring: &IoUring) -> Result<(), RingError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(RingError::Probe)?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::Recv::CODE, "receive"),
        (opcode::Send::CODE, "send"),
        (opcode::Read::CODE, "read"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::SendZc::CODE, "multishot receive"),
    ];
    match needed.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(RingError::Missing(name)),
        None if !ring.params().is_feature_ext_arg() => Err(RingError::Missing("timeouts of a wait")),
        None => Ok(()),
    }
}

/// Receive buffers and the ring through which the kernel takes them.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    data: NonNull<u8>,
    count: u16,
    bytes: usize,
    tail: u16,
}

impl Buffers {
    fn register(ring: &IoUring, count: u16, bytes: usize) -> Result<Self, RingError> {
        assert!(count.is_power_of_two() && bytes > 0, "buffer rings have a power of two of entries");
        let entries = allocate(Self::entries_layout(count)).cast::<BufRingEntry>();
        let data = allocate(Self::data_layout(count, bytes));
        let mut this = Self { entries, data, count, bytes, tail: 0 };
        for buffer in 0..count {
            this.give(buffer);
        }
        let address = u64::try_from(entries.as_ptr().addr()).expect("addresses have at most 64 bits");
        // SAFETY: the entries are zeroed, page aligned, long enough, and live as long as the ring (they are never freed while it exists).
        let registered = unsafe { ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) };
        registered.map_err(RingError::Buffers)?;
        Ok(this)
    }

    fn entries_layout(count: u16) -> Layout {
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes.max(PAGE_BYTES), PAGE_BYTES).expect("the ring is far below the address space")
    }

    fn data_layout(count: u16, bytes: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * bytes, DATA_ALIGN).expect("the buffers are far below the address space")
    }

    /// Start of a buffer.
    fn start(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < self.count, "the kernel names only buffers it was given");
        // SAFETY: the index is below the count, so the result lies inside the allocation.
        unsafe { self.data.add(usize::from(buffer) * self.bytes) }
    }

    fn held(&self, buffer: u16, len: usize) -> &[u8] {
        let start = self.start(buffer);
        // SAFETY: the buffer is ours between its completion and `give`, which needs `&mut self`; the length is cut to its size, and the
        // memory was zeroed at the start, so every byte is initialised.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len.min(self.bytes)) }
    }

    /// Puts a buffer at the tail of the ring.
    fn give(&mut self, buffer: u16) {
        let start = self.start(buffer);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below the count, so the entry lies inside the allocation.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the kernel reads an entry only after the tail has passed it, so this one is ours.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(u64::try_from(start.as_ptr().addr()).unwrap_or(0));
        entry.set_len(u32::try_from(self.bytes).unwrap_or(u32::MAX));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` points to the first entry of an initialised ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is aligned, lives as long as the ring, and is written only here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    /// Reached only when registration failed: a registered ring is never freed (see `Drop` of [`Uring`]).
    fn drop(&mut self) {
        // SAFETY: allocated by `register` with the same layout; the kernel never learned of it.
        unsafe { dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count)) };
        // SAFETY: as above.
        unsafe { dealloc(self.data.as_ptr(), Self::data_layout(self.count, self.bytes)) };
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "there is something to allocate");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ring() -> Uring {
        Uring::new(RingOptions { entries: 4, completions: 8, buffers: 0, buffer_bytes: 0 }).unwrap()
    }

    #[test]
    fn more_requests_than_entries_all_complete() {
        let mut ring = ring();
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (slot, (ours, _)) in pairs.iter().enumerate() {
            ring.send(ours.as_fd(), slot, vec![7; 16], 0, slot as u64).unwrap();
        }
        let (mut got, mut tokens) = (Vec::new(), Vec::new());
        while tokens.len() < 100 {
            ring.enter(Some(Duration::from_secs(5)), &mut got).unwrap();
            assert!(!got.is_empty(), "only {tokens:?}");
            tokens.extend(got.drain(..).map(|c| c.token));
        }
        tokens.sort_unstable();
        assert_eq!(tokens, (0..100).collect::<Vec<_>>());
        for (slot, (_, mut theirs)) in pairs.into_iter().enumerate() {
            assert_eq!(ring.sent(slot), [7; 16]);
            theirs.read_exact(&mut [0; 16]).unwrap();
        }
        assert_eq!(ring.sends_open, 0);
    }

    #[test]
    fn completions_taken_early_are_handed_out() {
        let mut ring = ring();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ring.send(ours.as_fd(), 0, vec![1; 4], 0, 42).unwrap();
        let mut early = Vec::new();
        ring.enter(Some(Duration::from_secs(5)), &mut early).unwrap();
        ring.early = early;
        let mut got = Vec::new();
        // Would wait for ever for the ring alone.
        ring.enter(None, &mut got).unwrap();
        assert_eq!((got.len(), got[0].token, ring.early.len()), (1, 42, 0));
        ring.sent(0);
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let errors = |number| io::Error::from_raw_os_error(number);
        assert!([libc::EINTR, libc::EBUSY, libc::EAGAIN].map(errors).iter().all(passes));
        assert!(![libc::EBADF, libc::EINVAL, libc::ENXIO, libc::EFAULT].map(errors).iter().any(passes));
    }
}

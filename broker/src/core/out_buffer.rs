//! Bytes that wait to be written to one client.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Payloads from this size on are shared by reference count instead of copied: below it, the
/// segment's bookkeeping and the extra `iovec` cost more than the copy.
pub(crate) const SHARE_FROM: usize = 8 * 1024;
/// Buffers that have grown beyond this are given back to the allocator, not to the pool.
const POOLED_CAPACITY_MAX: usize = 64 * 1024;
const POOLED_MAX: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, from this thread's pool when there is one.
pub(crate) fn pooled() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back to this thread's pool.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > POOLED_CAPACITY_MAX {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED_MAX {
            pool.push(buffer);
        }
    });
}

#[derive(Debug)]
enum Segment {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A queue of bytes: small packets are copied together, large payloads are shared.
///
/// Holds no memory while it is empty.
#[derive(Debug, Default)]
pub(crate) struct OutBuffer {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been written.
    written: usize,
    len: usize,
}

impl OutBuffer {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffer to append a packet to; call [`Self::appended`] afterwards with the bytes added.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        if !matches!(self.segments.back(), Some(Segment::Own(_))) {
            self.segments.push_back(Segment::Own(pooled()));
        }
        match self.segments.back_mut() {
            Some(Segment::Own(tail)) => tail,
            // The branch above has just put one there.
            _ => unreachable!("the last segment is an own one"),
        }
    }

    /// Counts bytes that were appended to [`Self::tail`].
    pub(crate) fn appended(&mut self, bytes: usize) {
        self.len += bytes;
    }

    /// Copies `bytes` behind what waits.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends counted bytes without a copy.
    pub(crate) fn share(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.segments.push_back(Segment::Shared(bytes));
    }

    /// Moves everything from `other` behind what waits here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        // A buffer without bytes may hold a segment that was made for some and stayed empty.
        if other.is_empty() {
            other.clear();
            return;
        }
        if self.is_empty() {
            self.clear();
            std::mem::swap(self, other);
            return;
        }
        debug_assert_eq!(
            other.written, 0,
            "a buffer that is being written is not moved"
        );
        self.len += other.len;
        self.segments.append(&mut other.segments);
        other.len = 0;
    }

    fn clear(&mut self) {
        for segment in std::mem::take(&mut self.segments) {
            if let Segment::Own(buffer) = segment {
                give_back(buffer);
            }
        }
        self.written = 0;
        self.len = 0;
    }

    /// Fills `slices` with what is to be written next; gives back how many were filled.
    pub(crate) fn io_slices<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let mut skip = self.written;
        let mut filled = 0;
        for segment in &self.segments {
            let bytes = segment.as_slice().get(skip..).unwrap_or_default();
            skip = 0;
            // A write of nothing but empty slices would look like a closed socket.
            if bytes.is_empty() {
                continue;
            }
            let Some(slot) = slices.get_mut(filled) else {
                break;
            };
            *slot = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `bytes` bytes: they are written.
    pub(crate) fn consume(&mut self, mut bytes: usize) {
        self.len = self.len.saturating_sub(bytes);
        while let Some(first) = self.segments.front() {
            let left = first.as_slice().len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.written = 0;
            if let Some(Segment::Own(buffer)) = self.segments.pop_front() {
                give_back(buffer);
            }
        }
        self.segments = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(buffer: &OutBuffer) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 1024];
        let filled = buffer.io_slices(&mut slices);
        slices[..filled]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 0..30),
            bites in prop::collection::vec(1usize..30, 0..60),
        ) {
            let mut buffer = OutBuffer::default();
            let mut model = Vec::new();
            let mut bites = bites.into_iter();
            for (bytes, shared) in parts {
                model.extend_from_slice(&bytes);
                if shared { buffer.share(Bytes::from(bytes)) } else { buffer.extend(&bytes) }
                let bite = bites.next().unwrap_or(0).min(model.len());
                model.drain(..bite);
                buffer.consume(bite);
                prop_assert_eq!(buffer.len(), model.len());
                prop_assert_eq!(contents(&buffer), model.clone());
            }
        }
    }

    #[test]
    fn buffers_that_stayed_empty_do_not_hide_what_is_to_be_written() {
        let mut writing = OutBuffer::default();
        let mut link = OutBuffer::default();
        for _ in 0..10 {
            link.tail();
            writing.append(&mut link);
            assert_eq!(link.segments.capacity(), 0);
        }
        for _ in 0..10 {
            writing.share(Bytes::new());
        }
        link.extend(b"abc");
        writing.append(&mut link);
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(writing.io_slices(&mut slices), 1);
        assert_eq!(&*slices[0], b"abc");
    }

    #[test]
    fn segments_that_stayed_empty_never_hide_what_is_to_be_written() {
        let mut writing = OutBuffer::default();
        for _ in 0..100 {
            let mut local = OutBuffer::default();
            local.tail();
            writing.append(&mut local);
            assert_eq!(local.segments.len(), 0);
        }
        let mut local = OutBuffer::default();
        local.tail();
        local.share(Bytes::from_static(b"abc"));
        writing.append(&mut local);
        let mut slices = [IoSlice::new(&[]); 1];
        assert_eq!(writing.io_slices(&mut slices), 1);
        assert_eq!(&*slices[0], b"abc");
        writing.consume(3);
        assert!(writing.is_empty());
    }

    #[test]
    fn an_empty_buffer_holds_no_memory() {
        let mut buffer = OutBuffer::default();
        buffer.extend(b"abc");
        buffer.consume(3);
        assert!(buffer.is_empty());
        assert_eq!(buffer.segments.capacity(), 0);
    }
}

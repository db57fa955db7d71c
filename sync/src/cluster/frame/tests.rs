//! The bytes of frames.

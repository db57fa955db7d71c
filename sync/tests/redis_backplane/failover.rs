//! Another server takes over, and may lack the newest writes.

//! Whether there is place for one more retained message: the bounds of all, and those of a tenant.

use std::cell::LazyCell;
use std::sync::Arc;

use dunlin_sync::Op;

use super::Hub;
use crate::core::mount;
use crate::core::retained::Retained;
use crate::tenant::Tenant;

/// Expired messages that are removed while the tree is held.
const EXPIRED_MAX: usize = 1_000;

/// A bound is reached.
pub(crate) struct Full {
    /// It is this tenant's.
    of: Option<Arc<Tenant>>,
}

impl Hub {
    /// Whether a retained message that weighs `size` may be kept for `topic`. `before`: number and weight of those that come before it
    /// and are not kept yet.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may_retain(
        &self,
        topic: &str,
        size: usize,
        before: (usize, u64),
    ) -> Result<(), Full> {
        self.has_place(&self.retained.read(), topic, size, before)
    }

    pub(super) fn has_place(
        &self,
        retained: &Retained,
        topic: &str,
        size: usize,
        before: (usize, u64),
    ) -> Result<(), Full> {
        // What it replaces makes room for it.
        let known = LazyCell::new(|| retained.get(topic).map(|old| old.size() as u64));
        let fits = |(len, bytes): (usize, u64), (len_max, bytes_max): (usize, u64)| {
            let bytes = bytes + before.1 + size as u64;
            (len + before.0 < len_max || known.is_some())
                && (bytes <= bytes_max || known.is_some_and(|old| bytes - old <= bytes_max))
        };
        let live = self.live.load();
        let max = (live.max_retained, live.max_retained_bytes);
        if !fits((retained.len(), retained.bytes()), max) {
            return Err(Full { of: None });
        }
        if !topic.starts_with('$') {
            return Ok(());
        }
        let Some((name, _)) = mount::split(topic) else {
            return Ok(());
        };
        // One whose entry is gone has no bounds any more.
        let Ok(tenant) = self.tenants.find(name) else {
            return Ok(());
        };
        let quotas = tenant.quotas();
        let max = (
            match quotas.max_retained {
                0 => usize::MAX,
                max => max as usize,
            },
            match quotas.max_retained_bytes {
                0 => u64::MAX,
                max => max,
            },
        );
        match fits(retained.of_tenant(name), max) {
            true => Ok(()),
            false => Err(Full { of: Some(tenant) }),
        }
    }

    /// Removes what nobody may get any more, so that it takes no place. In a cluster the replica that leads has Redis do it: another one
    /// may be keeping something for the topic at this moment.
    pub(super) fn remove_expired_retained(self: &Arc<Self>) {
        if self.cluster.is_some() {
            return;
        }
        let now_ms = self.clock.now_ms();
        if self.retained.read().expired(now_ms).next().is_none() {
            return;
        }
        let mut retained = self.retained.write();
        let expired = retained.expired(now_ms).take(EXPIRED_MAX);
        let expired: Vec<Box<str>> = expired.map(Box::from).collect();
        let mut ops = Vec::with_capacity(expired.len());
        for topic in expired {
            retained.remove(&topic);
            ops.push(Op::DeleteRetained(topic));
        }
        // While the tree is held: what is kept for one of these topics from now on is written behind it.
        self.submit(ops);
    }

    /// Counts a retained message that was not kept.
    pub(crate) fn refuse_retained(&self, full: &Full) {
        self.metrics.retained_refused(1);
        if let Some(tenant) = &full.of {
            tenant.refuse();
        }
    }
}

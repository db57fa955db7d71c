//! How much memory there is, and what happens when it runs short.
//!
//! Every queue has a bound, but a bound for each of a hundred thousand clients is none for all of them together. So the
//! memory of the process is looked at, forty times a second, and held against what it may use: `limits.max_memory`, or
//! what its container may use, or what the machine has.
//!
//! - from [`CROWDED`] on, new clients are refused (0x89) and the replica is unready: what idle connections cost stops here;
//! - from [`SHORT`] on, publishers are slowed down to a read a second, and the connections for which most waits are
//!   ended (0x97), until there is less than [`RELIEVED`].
//!
//! Memory that the allocator keeps after that does not count; see [`Kept`]. What is left up to the whole is for the system: buffers of sockets count in a container too.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, StoreConfig};
use crate::hub::Hub;
use crate::ops::Health;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(25);
/// Looks between two relieves: what was freed takes a moment to be given back.
const RELIEVE_EVERY: u32 = 20;

/// Parts of a hundred from which on new clients are refused.
const CROWDED: u64 = 70;
/// The same up to which they are, once they are.
const ROOMY: u64 = 65;
/// From which on publishers are held back and connections ended.
const SHORT: u64 = 85;
/// Up to which that goes on.
const RELIEVED: u64 = 80;

/// What the process may use, in bytes: what is configured, else the smallest of its control groups' bounds and the
/// machine's memory. `None`: nobody knows.
pub(crate) fn limit(configured: u64) -> Option<u64> {
    if configured > 0 {
        return Some(configured);
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = kibibytes(&machine, "MemTotal:");
    [machine, of_groups(&groups, &read)]
        .into_iter()
        .flatten()
        .min()
}

/// The smallest bound of the groups and of those that they are in.
fn of_groups(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let bounds = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let full = Path::new(root).join(path.trim_start_matches('/'));
        let up = full
            .ancestors()
            .take_while(|folder| folder.starts_with(root));
        up.map(|folder| folder.join(file)).collect()
    });
    // "max", and the number that stands for none in the older form, are more than any machine has.
    bounds
        .filter_map(|file| read(&file)?.trim().parse().ok())
        .min()
}

/// Lowers the bounds that would not fit into `limit` bytes beside the others; names those that it has lowered.
pub(crate) fn lower(config: &mut Config, limit: u64) -> Vec<String> {
    let mut lowered = Vec::new();
    let mut lower = |key: &str, value: u64, part: u64| {
        let fits = value.min(limit / part);
        if fits < value {
            lowered.push(format!("{key} = {fits}"));
        }
        fits
    };
    let limits = &mut config.limits;
    limits.max_retained_bytes = lower("limits.max_retained_bytes", limits.max_retained_bytes, 4);
    let pending = limits.store_pending_bytes as u64;
    let pending = lower("limits.store_pending_bytes", pending, 16);
    limits.store_pending_bytes = usize::try_from(pending).unwrap_or(usize::MAX);
    if let StoreConfig::Redis(redis) = &mut config.store {
        let ring = lower("redis.ring_bytes", redis.ring_bytes as u64, 16);
        redis.ring_bytes = usize::try_from(ring).unwrap_or(usize::MAX);
    }
    lowered
}

/// What the process uses now, in bytes.
fn used() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident * rustix::param::page_size() as u64)
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(number * 1024)
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    crowded: bool,
    short: bool,
}

impl State {
    /// The next one, when `used` of `limit` bytes are in use.
    fn next(self, used: u64, limit: u64) -> Self {
        let part = used.saturating_mul(100) / limit.max(1);
        let between = |now: bool, from: u64, to: u64| part >= if now { to } else { from };
        Self {
            crowded: between(self.crowded, CROWDED, ROOMY),
            short: between(self.short, SHORT, RELIEVED),
        }
    }
}

/// Tells memory that is in use from memory that the allocator keeps for later.
///
/// What was freed is not always given back to the system, and nobody can ask for it. When connections were ended and
/// nothing worth ending waits any more, what came since it was calm is free, and will be used again before the process
/// grows. So it is left out, until the process is larger than it was then.
#[derive(Debug, Default)]
struct Kept {
    /// What was used when it was calm.
    calm: u64,
    kept: u64,
    /// What was used when that was found out.
    at: u64,
}

impl Kept {
    /// What is in use of `used` bytes.
    fn in_use(&mut self, used: u64, limit: u64) -> u64 {
        if used > self.at + limit / 50 {
            self.kept = 0;
        }
        self.kept = self.kept.min(used.saturating_sub(self.calm));
        used - self.kept
    }

    /// It is calm.
    fn is_calm(&mut self, used: u64) {
        if self.kept == 0 {
            self.calm = used;
        }
    }

    /// What waited is gone.
    fn is_free(&mut self, used: u64) {
        self.kept = used.saturating_sub(self.calm);
        self.at = used;
    }
}

/// Looks at the memory, and does what is to be done; never ends, unless nobody knows how much is used.
pub(crate) async fn watch(hub: Arc<Hub>, health: Arc<Health>, limit: u64) {
    hub.metrics.set_memory_limit(limit);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut kept = Kept::default();
    let mut state = State::default();
    let mut looks = 0_u32;
    // Connections ended since memory has been short, and relieves in a row that ended none.
    let (mut ended, mut idle) = (0, 0);
    loop {
        ticks.tick().await;
        let Some(used) = used() else { return };
        let next = state.next(kept.in_use(used, limit), limit);
        if !next.crowded {
            kept.is_calm(used);
        }
        if next != state {
            tell(&health, next, used, limit);
            hub.set_memory(next.crowded, next.short);
            if next.short != state.short {
                (looks, ended, idle) = (0, 0, 0);
            }
            state = next;
        }
        if state.short && looks.is_multiple_of(RELIEVE_EVERY) {
            // Twice as much each time: what waits for many is shared by them, and is free when the last of them has gone.
            let again = (looks / RELIEVE_EVERY).min(20);
            let wanted = used.saturating_sub(limit / 100 * RELIEVED) << again;
            let now = hub.relieve(wanted);
            if now > 0 {
                tracing::warn!(
                    used,
                    limit,
                    ended = now,
                    "memory is short: the clients for which most waits are disconnected"
                );
            }
            ended += now;
            idle = if now > 0 { 0 } else { idle + 1 };
            if ended > 0 && idle >= 2 {
                kept.is_free(used);
            }
        }
        looks = looks.wrapping_add(1);
    }
}

fn tell(health: &Health, state: State, used: u64, limit: u64) {
    let words = format!("{} of {} MiB of memory are in use", used >> 20, limit >> 20);
    if state.crowded {
        tracing::warn!(
            used,
            limit,
            "memory is nearly used up: new clients are refused"
        );
    } else {
        tracing::info!(used, limit, "there is memory again");
    }
    health.set_memory_short(state.crowded.then_some(words));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_do_not_go_back_and_forth() {
        let state = |now: State, percent: u64| now.next(percent, 100);
        let calm = State::default();
        assert_eq!(state(calm, 69), calm);
        let crowded = State {
            crowded: true,
            short: false,
        };
        assert_eq!(state(calm, 70), crowded);
        assert_eq!(state(crowded, 66), crowded);
        assert_eq!(state(crowded, 64), calm);
        let short = State {
            crowded: true,
            short: true,
        };
        assert_eq!(state(crowded, 85), short);
        assert_eq!(state(short, 81), short);
        assert_eq!(state(short, 79), crowded);
    }

    #[test]
    fn what_the_allocator_keeps_is_not_in_use_until_the_process_grows() {
        let mut kept = Kept::default();
        kept.is_calm(30);
        assert_eq!(kept.in_use(90, 100), 90);
        kept.is_free(90);
        assert_eq!(kept.in_use(90, 100), 30);
        assert_eq!(kept.in_use(60, 100), 30, "some of it is given back");
        assert_eq!(kept.in_use(92, 100), 62, "and used again");
        assert_eq!(kept.in_use(93, 100), 93, "larger than it ever was");
    }

    #[test]
    fn the_smallest_bound_of_a_group_and_those_around_it_counts() {
        let read = |path: &Path| match path.to_str()? {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("536870912\n".to_owned()),
            "/sys/fs/cgroup/memory/pod/memory.limit_in_bytes" => Some("268435456\n".to_owned()),
            "/sys/fs/cgroup/memory/memory.limit_in_bytes" => {
                Some("9223372036854771712\n".to_owned())
            }
            _ => None,
        };
        assert_eq!(of_groups("0::/a/b\n", &read), Some(536_870_912));
        assert_eq!(
            of_groups("8:pids:/x\n9:memory,cpu:/pod\n", &read),
            Some(268_435_456)
        );
        assert_eq!(of_groups("0::/elsewhere\n", &read), None);
    }

    #[test]
    fn this_process_uses_memory_and_there_is_more() {
        let (used, limit) = (used().unwrap(), limit(0).unwrap());
        assert!(used > 1 << 20 && used < limit, "{used} of {limit}");
        assert_eq!(super::limit(7), Some(7));
    }
}

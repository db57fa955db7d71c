//! Kinds of metrics, and how each is registered.

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::count::{add, whole};
use super::labels::Label;

/// One gauge per value of a label.
pub struct Gauged<L> {
    gauges: Box<[Gauge]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L> fmt::Debug for Gauged<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.gauges.iter().map(|gauge| gauge.get()))
            .finish()
    }
}

impl<L: Label> Gauged<L> {
    /// Sets the gauge of one value.
    pub fn set(&self, value: L, n: u64) {
        if let Some(gauge) = self.gauges.get(value.index()) {
            gauge.set(whole(n));
        }
    }
}

/// A gauge of seconds, or of a share.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// Seconds that add up.
pub(super) type SecondsCounted = Counter<f64, AtomicU64>;

/// When what is served on a listener ends, in Unix time.
pub(super) type ByListener = Family<[(&'static str, String); 1], Gauge>;

/// One gauge per tenant that has an entry in the configuration, and one for all others.
pub(crate) type ByTenant = Family<[(&'static str, String); 1], Gauge>;

/// Clients connected through a listener, by version of MQTT.
pub(super) type ByListenerAndVersion = Family<[(&'static str, String); 2], Gauge>;

/// One counter per value of a label.
pub struct Counters<L> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L> fmt::Debug for Counters<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.counters.iter().map(|counter| counter.get()))
            .finish()
    }
}

impl<L: Label> Counters<L> {
    /// Adds to the counter of one value.
    pub fn add(&self, value: L, n: u64) {
        if let Some(counter) = self.counters.get(value.index()) {
            add(counter, n);
        }
    }

    /// Adds to the counters of all values, in their order.
    pub(super) fn add_each(&self, counts: [u64; 3]) {
        for (counter, n) in self.counters.iter().zip(counts) {
            add(counter, n);
        }
    }

    /// What has been counted for one value.
    #[must_use]
    pub fn get(&self, value: L) -> u64 {
        self.counters.get(value.index()).map_or(0, Counter::get)
    }

    /// What has been counted for all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.counters.iter().map(|counter| counter.get()).sum()
    }
}

/// Counters by a reason in words or a reason code: a label of which the broker itself makes every
/// value, so that there are few.
pub(super) type ByReason = Family<[(&'static str, String); 1], Counter>;

/// A kind of metric that can be registered under a name.
pub(super) trait Kind {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self;
}

macro_rules! plain_kind {
    ($($ty:ty => $make:expr),* $(,)?) => {$(
        impl Kind for $ty {
            fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
                let metric: $ty = $make;
                match unit {
                    Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
                    None => registry.register(name, help, metric.clone()),
                }
                metric
            }
        }
    )*};
}
plain_kind! {
    Counter => Counter::default(),
    Gauge => Gauge::default(),
    ByReason => ByReason::default(),
    ByListener => ByListener::default(),
    ByListenerAndVersion => ByListenerAndVersion::default(),
    Seconds => Seconds::default(),
    SecondsCounted => SecondsCounted::default(),
    // From 1 ms, about a timer's resolution, to 16 s, at which a replica has lost its lease.
    Histogram => Histogram::new(exponential_buckets(0.001, 2.0, 15)),
}

impl<L: Label> Kind for Gauged<L> {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        let gauges = L::VALUES
            .iter()
            .map(|text| family.get_or_create_owned(&[(L::NAME, *text)]))
            .collect();
        Self {
            gauges,
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Label> Kind for Counters<L> {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        let counters = L::VALUES
            .iter()
            .map(|text| family.get_or_create_owned(&[(L::NAME, *text)]))
            .collect();
        Self {
            counters,
            label: std::marker::PhantomData,
        }
    }
}

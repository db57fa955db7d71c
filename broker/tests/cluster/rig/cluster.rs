//! Redis, replicas, and what lies between them.

use std::net::SocketAddr;

use super::{Balancer, Proxy, Redis};
use crate::support::{
    Broker, Client, ReasonCode, Version, connect, connecting::Connecting, wait_until,
};

/// What cluster to start.
pub(crate) struct ClusterSetup {
    replicas: usize,
    settings: Vec<String>,
    config: String,
    allowed: Vec<String>,
}

impl ClusterSetup {
    /// Sets a key of the configuration of every replica.
    pub(crate) fn set(mut self, key_value: &str) -> Self {
        self.settings.push(key_value.to_owned());
        self
    }

    /// Gives every replica tables in a configuration file, beside its listener.
    pub(crate) fn tables(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    /// A run with faults: replicas may warn of them. An ERROR or a panic still fails the test.
    pub(crate) fn with_faults(mut self) -> Self {
        self.allowed.push(" WARN ".to_owned());
        self.allowed.push("\"level\":\"WARN\"".to_owned());
        self
    }

    /// Announces that lines with `text` in a log are no failure.
    pub(crate) fn allow_log(mut self, text: &str) -> Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// Starts Redis and the replicas.
    pub(crate) fn start(self) -> Cluster {
        self.start_over(Redis::start())
    }

    /// Starts the replicas over a Redis that is there.
    pub(crate) fn start_over(self, redis: Redis) -> Cluster {
        let proxies: Vec<_> = (0..self.replicas)
            .map(|_| Proxy::start(redis.address()))
            .collect();
        let replicas: Vec<_> = proxies
            .iter()
            .map(|proxy| self.replica(&format!("redis://{}", proxy.address())))
            .collect();
        let balancer = Balancer::start(replicas.iter().map(Broker::address).collect());
        Cluster {
            replicas,
            balancer,
            proxies,
            redis,
            setup: self,
        }
    }

    /// Starts one replica over whatever the URL says.
    pub(crate) fn replica(&self, url: &str) -> Broker {
        let mut setup = Broker::setup().set(&format!("redis.url={url}"));
        if !self.config.is_empty() {
            let listener = "[[listener]]\naddress = \"127.0.0.1:{port}\"\n";
            setup = setup.config(&format!("{listener}{}", self.config));
        }
        for setting in &self.settings {
            setup = setup.set(setting);
        }
        for text in &self.allowed {
            setup = setup.allow_log(text);
        }
        let replica = setup.start();
        wait_ready(&replica);
        replica
    }
}

/// It listens before it has joined; it takes clients when it can keep its promises.
pub(crate) fn wait_ready(replica: &Broker) {
    wait_until("the replica has joined the cluster", || {
        let probe = format!("probe-{}", replica.port());
        let Some(answer) = connect(Version::V5, &probe).try_answer(replica.address()) else {
            return false;
        };
        answer.reason() == ReasonCode::SUCCESS
    });
}

/// A cluster. The fields end in this order: replicas before what they need.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Broker>,
    pub(crate) balancer: Balancer,
    /// The network between the replica of the same number and Redis.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) redis: Redis,
    setup: ClusterSetup,
}

/// A client that tries until the replica takes it.
pub(crate) fn connect_again(replica: &Broker, connecting: &Connecting) -> Client {
    let mut client = None;
    wait_until("the replica takes its client again", || {
        let (connected, answer) = connecting.answer(replica);
        if answer.reason() == ReasonCode::SUCCESS {
            client = Some(connected);
        }
        client.is_some()
    });
    client.expect("connected")
}

impl Cluster {
    /// A cluster to be configured.
    pub(crate) fn setup(replicas: usize) -> ClusterSetup {
        ClusterSetup {
            replicas,
            settings: Vec::new(),
            config: String::new(),
            allowed: Vec::new(),
        }
    }

    /// So many replicas over one Redis.
    pub(crate) fn start(replicas: usize) -> Self {
        Self::setup(replicas).start()
    }

    /// Where a replica is.
    pub(crate) fn address(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].address()
    }

    /// Starts a replica again that was killed.
    pub(crate) fn start_again(&mut self, replica: usize) {
        self.replicas[replica].start_again();
        wait_ready(&self.replicas[replica]);
    }

    /// One more replica, behind a proxy of its own. The balancer does not know of it.
    pub(crate) fn add(&mut self) {
        let proxy = Proxy::start(self.redis.address());
        let replica = self.setup.replica(&format!("redis://{}", proxy.address()));
        self.proxies.push(proxy);
        self.replicas.push(replica);
    }

    /// Connects a clean MQTT 5 session to a replica.
    pub(crate) fn clean(&self, replica: usize, client_id: &str) -> Client {
        connect(Version::V5, client_id).open(&self.replicas[replica], false)
    }

    /// Connects to a replica.
    pub(crate) fn open(&self, replica: usize, connecting: &Connecting, present: bool) -> Client {
        connecting.open(&self.replicas[replica], present)
    }
}

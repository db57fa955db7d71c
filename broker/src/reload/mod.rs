//! The configuration is read again while the broker runs.
//!
//! Two ways lead here: SIGHUP, for everything; and the watch over the files that others renew (certificates, keys,
//! authorities, the users file), for these alone: half of an edited configuration must not come into force because a
//! certificate was renewed. Either way everything is read and checked before anything is changed. What is wrong with
//! the configuration is said as at the start, all of it, and the broker goes on with what it had; of the watched files
//! each counts for itself: a listener with a broken pair keeps the old one, the others get theirs.

mod diff;
mod watch;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::signal::unix::Signal;

use crate::auth::{Auth, methods::Methods};
use crate::config::{
    self, Config, DrainConfig, ListenerConfig, Loaded, Problem, Sources, TlsConfig,
};
use crate::error::Code;
use crate::hub::Hub;
use crate::net::{acceptor::Acceptor, gate::Gate, slots::Slots, tls};
use crate::ops::{Metrics, metrics::Reload};
use crate::registry::RegistryMethod;

/// What a running broker can be told anew.
pub(crate) struct Running {
    pub(crate) sources: Sources,
    /// In the order of the listeners at the start.
    pub(crate) acceptors: Vec<Arc<Acceptor>>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) drain: Arc<ArcSwap<DrainConfig>>,
    pub(crate) admin: Option<crate::admin::Access>,
    pub(crate) metrics: Arc<Metrics>,
    /// What the process may use.
    pub(crate) memory_limit: Option<u64>,
}

/// The configuration in force.
struct InForce {
    config: Config,
    /// All of it, as it was at the start.
    started: toml::Table,
    /// All of it, as it was read last.
    newest: toml::Table,
}

/// Reads again, and tells who is concerned.
pub(crate) struct Reloader {
    running: Running,
    in_force: Mutex<InForce>,
}

impl Reloader {
    /// `config` and `effective` are what the broker was started with.
    pub(crate) fn new(running: Running, config: Config, effective: toml::Table) -> Arc<Self> {
        Arc::new(Self {
            running,
            in_force: Mutex::new(InForce {
                config,
                newest: effective.clone(),
                started: effective,
            }),
        })
    }

    /// Does what signals and files ask for; never ends.
    pub(crate) async fn run(self: Arc<Self>, mut hangup: Signal) {
        let mut watch = watch::Watch::default();
        let mut ticks = self.ticks();
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = ticks.tick() => false,
            };
            let this = Arc::clone(&self);
            // Files may lie on a disk that is slow.
            let done = tokio::task::spawn_blocking(move || {
                let changed = watch.look(this.files());
                match asked {
                    true => this.reload(),
                    false if changed => this.reload_files(),
                    false => {}
                }
                watch
            });
            match done.await {
                Ok(back) => watch = back,
                Err(error) => {
                    tracing::error!(%error, "the configuration could not be read again");
                    watch = watch::Watch::default();
                }
            }
            if asked {
                ticks = self.ticks();
            }
        }
    }

    fn ticks(&self) -> watch::Ticks {
        watch::Ticks::every(self.in_force.lock().config.watch)
    }

    /// The files that are watched.
    fn files(&self) -> Vec<std::path::PathBuf> {
        let in_force = self.in_force.lock();
        let tls = in_force
            .config
            .listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref());
        let admin = in_force.config.admin.as_ref();
        let tls = tls.chain(admin.and_then(|admin| admin.tls.as_ref()));
        let tokens = admin.map(|admin| &admin.tokens);
        let of_tls = tls.flat_map(TlsConfig::files);
        let auth = &in_force.config.auth;
        let jwt = auth.jwt.iter();
        let of_jwt = jwt.flat_map(|jwt| jwt.keys.iter().chain(&jwt.secret_file));
        let of_http = auth.http.iter().flat_map(|http| &http.token_file);
        let all = of_tls
            .chain(&auth.users)
            .chain(&auth.acl_file)
            .chain(of_jwt)
            .chain(of_http)
            .chain(tokens);
        all.cloned().collect()
    }

    /// Reads everything.
    fn reload(&self) {
        let loaded = match config::load(&self.running.sources) {
            Ok(loaded) => loaded,
            Err(problems) => {
                self.running.metrics.reloaded(Reload::Config, false);
                problems.0.iter().for_each(say_problem);
                let problems = problems.0.len();
                tracing::error!(
                    problems,
                    "the configuration stays as it was: nothing has been changed"
                );
                return;
            }
        };
        self.running.metrics.reloaded(Reload::Config, true);
        for warning in &loaded.warnings {
            tracing::warn!(code = %warning.code, place = warning.place.as_deref(), "{}", warning.text);
        }
        self.put_in_force(loaded);
    }

    fn put_in_force(&self, loaded: Loaded) {
        let Loaded {
            mut config,
            effective,
            tls,
            admin,
            users,
            methods,
            rules,
            ..
        } = loaded;
        if let Some(limit) = self.running.memory_limit {
            // What is named is what was lowered at the start.
            let _lowered = crate::memory::lower(&mut config, limit);
        }
        let mut in_force = self.in_force.lock();
        let changed = diff::between(&in_force.newest, &effective);
        let live: Vec<_> = changed
            .into_iter()
            .filter(|key| diff::is_live(key))
            .collect();
        let fixed = diff::between(&in_force.started, &effective);
        let fixed: Vec<_> = fixed
            .into_iter()
            .filter(|key| !diff::is_live(key))
            .collect();
        for (listener, tls) in config.listeners.iter().zip(tls) {
            let Some(acceptor) = self.acceptor_of(listener) else {
                continue;
            };
            acceptor.set_access(
                config.anonymous_allowed(listener),
                config.methods_of(listener),
            );
            if let Some(tls) = tls {
                self.renew(acceptor, tls);
            }
        }
        if let (Some(access), Some(files)) = (&self.running.admin, admin) {
            access.renew_tokens(files.tokens);
            if let Some(tls) = files.tls {
                access.renew_tls(tls);
            }
        }
        self.running.auth.renew(users, rules);
        self.renew_methods(&methods);
        self.end_withdrawn();
        let registry = self.running.hub.registry();
        RegistryMethod::arrange(&self.running.auth, registry, &config.auth);
        self.running.hub.tenants.configure(&config.tenants);
        self.look_again();
        self.running.hub.set_limits(&config.limits);
        self.running.hub.guard.renew(&config.limits, &config.bans);
        self.running.hub.set_farewell(config.farewell());
        self.running
            .gate
            .set_rate(config.limits.connect_rate, config.limits.connect_burst);
        self.running.slots.set_max(config.limits.max_connections);
        if let Err(error) = self.running.hub.audit.renew(&config.audit) {
            tracing::error!(code = %Code::Audit, "{error}; it goes on where it was");
        }
        self.running.drain.store(Arc::new(config.drain.clone()));
        let level = live.iter().any(|key| key == "log.level") && !is_level_from_environment();
        if level && let Err(error) = crate::logging::set_level(&config.log.level) {
            tracing::error!(code = %Code::Log, "{error}");
        }
        in_force.config = config;
        in_force.newest = effective;
        drop(in_force);
        tracing::info!(
            changed = live.join(", "),
            "the configuration was read again"
        );
        if !fixed.is_empty() {
            tracing::warn!(
                keys = fixed.join(", "),
                "needs a restart: these keys stay as they were"
            );
        }
    }

    /// The listener of the running broker that this one of the configuration is.
    fn acceptor_of(&self, listener: &ListenerConfig) -> Option<&Arc<Acceptor>> {
        self.running.acceptors.iter().find(|acceptor| {
            let info = acceptor.info();
            *info.name == *listener.name && info.kind == listener.kind
        })
    }

    fn renew_methods(&self, methods: &Methods) {
        if let Err(error) = self.running.auth.set_methods(methods) {
            tracing::error!(code = %Code::TokenKeys, "{error}; the methods of authentication stay as they were");
        }
    }

    /// Who has come in with what is no longer good has to go; the others have the roles of now.
    fn end_withdrawn(&self) {
        let (hub, auth) = (&self.running.hub, &self.running.auth);
        hub.end_withdrawn();
        hub.renew_where(|client| auth.renewed(&client.principal));
    }

    /// New connections get the new certificate.
    fn renew(&self, acceptor: &Acceptor, tls: tls::Loaded) {
        let info = acceptor.info();
        let (listener, not_after) = (&*info.name, tls.not_after);
        let revoked = Arc::clone(&tls.revoked);
        if self.running.auth.set_revoked(listener, revoked) {
            tracing::info!(
                listener,
                "the lists of revoked certificates were read again"
            );
        }
        if acceptor.set_tls(tls) {
            self.running.metrics.certificate(listener, not_after);
            self.running.metrics.reloaded(Reload::Certificates, true);
            tracing::info!(
                listener,
                not_after,
                "new connections get the new certificate"
            );
        }
    }

    /// The rules have changed.
    fn look_again(&self) {
        let clients = self.running.hub.recheck_all();
        if clients > 0 {
            tracing::info!(
                clients,
                "clients were disconnected: what they had is no longer allowed"
            );
        }
    }

    /// Reads what is watched, each for itself.
    fn reload_files(&self) {
        let config = self.in_force.lock().config.clone();
        for listener in &config.listeners {
            let Some((files, acceptor)) = listener.tls.as_ref().zip(self.acceptor_of(listener))
            else {
                continue;
            };
            match tls::load(files) {
                Ok(loaded) => {
                    for warning in &loaded.warnings {
                        tracing::warn!(code = %warning.code, listener = listener.name, "{}", warning.text);
                    }
                    self.renew(acceptor, loaded);
                }
                Err(faults) => {
                    self.running.metrics.reloaded(Reload::Certificates, false);
                    for fault in faults {
                        tracing::error!(
                            code = %fault.code,
                            listener = listener.name,
                            "{}; the certificate in use stays",
                            fault.text
                        );
                    }
                }
            }
        }
        if let Some(path) = &config.auth.acl_file {
            match config::load_rules(&config.auth) {
                Ok(rules) => {
                    self.running.auth.renew_rules(rules);
                    tracing::info!(file = %path.display(), "the access file was read again");
                    self.look_again();
                }
                Err(problems) => {
                    problems.0.iter().for_each(say_problem);
                    tracing::error!(file = %path.display(), "the rules stay as they were");
                }
            }
        }
        match config::load_methods(&config.auth) {
            Ok(methods) => self.renew_methods(&methods),
            Err(problems) => {
                problems.0.iter().for_each(say_problem);
                tracing::error!("the methods of authentication stay as they were");
            }
        }
        if let (Some(access), Some(admin)) = (&self.running.admin, &config.admin) {
            reload_admin(access, admin);
        }
        if let Some(path) = &config.auth.users {
            match config::load_users(path) {
                Ok(users) => {
                    if self.running.auth.renew_users(users) {
                        tracing::info!(file = %path.display(), "the users file was read again");
                    }
                }
                Err(problems) => {
                    problems.0.iter().for_each(say_problem);
                    tracing::error!(file = %path.display(), "the users stay as they were");
                }
            }
        }
        self.end_withdrawn();
    }
}

fn reload_admin(access: &crate::admin::Access, admin: &config::AdminConfig) {
    match config::load_admin_tokens(&admin.tokens) {
        Ok(tokens) => {
            if access.renew_tokens(tokens) {
                tracing::info!(file = %admin.tokens.display(), "the tokens of the administration were read again");
            }
        }
        Err(problems) => {
            problems.0.iter().for_each(say_problem);
            tracing::error!(file = %admin.tokens.display(), "the tokens stay as they were");
        }
    }
    match admin.tls.as_ref().map(tls::load) {
        Some(Ok(loaded)) => access.renew_tls(loaded),
        Some(Err(faults)) => {
            for fault in faults {
                tracing::error!(code = %fault.code, "admin: {}; the certificate in use stays", fault.text);
            }
        }
        None => {}
    }
}

/// It wins over the file, also later.
fn is_level_from_environment() -> bool {
    std::env::var_os("RUST_LOG").is_some_and(|level| !level.is_empty())
}

fn say_problem(problem: &Problem) {
    tracing::error!(code = %problem.code, place = problem.place.as_deref(), "{}", problem.text);
}

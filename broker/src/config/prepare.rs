//! The last step before anything starts: the files that the configuration names are read too, and
//! what is wrong with them is reported along with the rest.

use std::path::Path;

use zeroize::Zeroizing;

use super::{AuthConfig, Config, Problem, Problems, Report, Sources};
use crate::{
    admin::tokens::Tokens,
    auth::{Acl, Rules, Users, jwt::Key, methods::Methods},
    error::Code,
    net::tls,
    provisioning::Files,
};

/// A configuration with which the broker can start.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// All of it as TOML, defaults included. It holds no secret: passwords and keys are in files of
    /// their own, of which only the paths are named.
    pub effective: toml::Table,
    /// What can be lived with.
    pub warnings: Vec<Problem>,
    /// TLS of each listener, in the order of `config.listeners`.
    pub tls: Vec<Option<tls::Loaded>>,
    /// Who may administer, and TLS for them.
    pub admin: Option<AdminFiles>,
    /// TLS of the listener of provisioning.
    pub provisioning_tls: Option<tls::Loaded>,
    /// What the files of provisioning hold.
    pub(crate) provisioning: Option<Files>,
    /// Who may connect by name.
    pub users: Option<Users>,
    /// What else says who a client is.
    pub methods: Methods,
    /// What they may do.
    pub rules: Rules,
}

/// What the files of `[admin]` hold.
#[derive(Debug)]
pub struct AdminFiles {
    /// Who may.
    pub tokens: Tokens,
    /// TLS of its listener.
    pub tls: Option<tls::Loaded>,
}

/// Reads, merges and checks everything.
///
/// # Errors
/// All that is wrong, in the order of the file.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut report = Report::default();
    let (config, effective) = Config::read(sources, &mut report);
    let tls = config
        .listeners
        .iter()
        .map(|listener| load_tls(listener.tls.as_ref(), &listener.key, &mut report))
        .collect();
    let admin = config.admin.as_ref().map(|admin| AdminFiles {
        tokens: read_tokens(&admin.tokens, &mut report),
        tls: load_tls(admin.tls.as_ref(), "admin", &mut report),
    });
    let provisioning = config.provisioning.as_ref();
    let provisioning_tls = provisioning
        .and_then(|provisioning| load_tls(provisioning.tls.as_ref(), "provisioning", &mut report));
    let provisioning = provisioning.and_then(|provisioning| match Files::read(provisioning) {
        Ok(files) => Some(files),
        Err(faults) => {
            for fault in faults {
                report.problem_at(fault.code, fault.key, fault.text);
            }
            None
        }
    });
    let users = config
        .auth
        .users
        .as_deref()
        .and_then(|path| read_users(path, &mut report));
    let methods = read_methods(&config.auth, &mut report);
    let acl = config
        .auth
        .acl_file
        .as_deref()
        .and_then(|path| read_acl(path, &mut report));
    let rules = compile_rules(&config.auth, &mut report).with_acl(acl);
    if config.auth.unsaid {
        report.warning_at(
            Code::NothingAllowed,
            "auth.default",
            "clients must show who they are, and nothing says what they may do: everything is denied but what a device's own \
             policy allows. Add [[auth.rules]] or auth.acl_file, or write default = \"allow\" to allow everything"
                .to_owned(),
        );
    }
    let warnings = report.finish()?;
    Ok(Loaded {
        config,
        effective,
        warnings,
        tls,
        admin,
        provisioning_tls,
        provisioning,
        users,
        methods,
        rules,
    })
}

/// Where a broker with this configuration shows its health; `None` when nowhere. The files that it names are not read.
///
/// # Errors
/// All that is wrong, in the order of the file.
pub fn ops_address(sources: &Sources) -> Result<Option<std::net::SocketAddr>, Problems> {
    let mut report = Report::default();
    let (config, _) = Config::read(sources, &mut report);
    report.finish()?;
    Ok(config.ops.listen)
}

/// `of` is the key of the table that has the table `tls`.
fn load_tls(tls: Option<&super::TlsConfig>, of: &str, report: &mut Report) -> Option<tls::Loaded> {
    let key_of = |key: &str| format!("{of}.tls.{key}");
    match tls::load(tls?) {
        Ok(mut loaded) => {
            for warning in std::mem::take(&mut loaded.warnings) {
                report.warning_at(warning.code, &key_of(warning.key), warning.text);
            }
            Some(loaded)
        }
        Err(faults) => {
            for fault in faults {
                report.problem_at(fault.code, &key_of(fault.key), fault.text);
            }
            None
        }
    }
}

/// Reads a users file.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn load_users(path: &Path) -> Result<Users, Problems> {
    let mut report = Report::default();
    let users = read_users(path, &mut report);
    report.finish()?;
    Ok(users.unwrap_or_default())
}

/// Reads the files of the methods.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn load_methods(auth: &AuthConfig) -> Result<Methods, Problems> {
    let mut report = Report::default();
    let methods = read_methods(auth, &mut report);
    report.finish()?;
    Ok(methods)
}

fn read_methods(auth: &AuthConfig, report: &mut Report) -> Methods {
    let mut methods = Methods {
        people: auth.people.clone(),
        ..Methods::default()
    };
    if let Some(jwt) = &auth.jwt {
        let mut keys = Vec::new();
        for path in &jwt.keys {
            match read_keys(path) {
                Ok(read) => keys.extend(read),
                Err(text) => report.problem_at(Code::TokenKeys, "auth.jwt.keys", text),
            }
        }
        if let Some(path) = &jwt.secret_file {
            match read_secret(path, report).and_then(|secret| Key::from_secret(secret.as_bytes())) {
                Ok(key) => keys.push(key),
                Err(text) => report.problem_at(Code::TokenKeys, "auth.jwt.secret_file", text),
            }
        }
        methods.jwt = Some((jwt.clone(), keys));
    }
    if let Some(hook) = &auth.http {
        let token = hook
            .token_file
            .as_ref()
            .map(|path| read_secret(path, report));
        match token.transpose() {
            Ok(token) => methods.http = Some((hook.clone(), token)),
            Err(text) => report.problem_at(Code::TokenKeys, "auth.http.token_file", text),
        }
    }
    methods
}

/// The keys in a file, PEM or JSON.
fn read_keys(path: &Path) -> Result<Vec<Key>, String> {
    let shown = path.display();
    let content = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let json = content.trim_ascii_start().first() == Some(&b'{');
    let keys = match json {
        true => Key::from_jwks(&content, true),
        false => Key::from_pem(&content),
    };
    keys.map_err(|fault| format!("{shown} holds no key that can be used: {fault}"))
}

/// A secret is all of a file but the line end at its end.
fn read_secret(path: &Path, report: &mut Report) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path);
    let text = Zeroizing::new(text.map_err(|error| format!("cannot read {shown}: {error}"))?);
    if is_open_to_all(path) {
        let text = format!("every user of this machine can read {shown}: `chmod 600 {shown}`");
        report.warning(Code::UsersFileMode, Some(path.display().to_string()), text);
    }
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// Reads a file of tokens.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn load_admin_tokens(path: &Path) -> Result<Tokens, Problems> {
    let mut report = Report::default();
    let tokens = read_tokens(path, &mut report);
    report.finish()?;
    Ok(tokens)
}

fn read_tokens(path: &Path, report: &mut Report) -> Tokens {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let text = format!(
                "cannot read the file of tokens {shown}: {error}: make it with `broker token {shown} NAME --write`"
            );
            report.problem_at(Code::AdminTokens, "admin.tokens_file", text);
            return Tokens::default();
        }
    };
    match Tokens::parse(&text) {
        Ok(tokens) => tokens,
        Err(faults) => {
            for (line, fault) in faults {
                report.problem(Code::AdminTokens, Some(format!("{shown}:{line}:1")), fault);
            }
            Tokens::default()
        }
    }
}

fn read_users(path: &Path, report: &mut Report) -> Option<Users> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let hint = if error.kind() == std::io::ErrorKind::NotFound {
                format!(": make it with `broker passwd {} NAME`", path.display())
            } else {
                String::new()
            };
            report.problem_at(
                Code::UsersFile,
                "auth.users",
                format!(
                    "cannot read the users file {}: {error}{hint}",
                    path.display()
                ),
            );
            return None;
        }
    };
    let (users, faults) = Users::parse(&text);
    for (line, fault) in faults {
        report.problem(
            Code::UsersLine,
            Some(format!("{}:{line}:1", path.display())),
            fault,
        );
    }
    if is_open_to_all(path) {
        let text = format!(
            "every user of this machine can read {}: `chmod 600 {0}`",
            path.display()
        );
        report.warning_at(Code::UsersFileMode, "auth.users", text);
    }
    Some(users)
}

fn read_acl(path: &Path, report: &mut Report) -> Option<Acl> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            report.problem_at(
                Code::AclFile,
                "auth.acl_file",
                format!("cannot read the access file {}: {error}", path.display()),
            );
            return None;
        }
    };
    let (acl, faults) = Acl::parse(&text);
    for (line, fault) in faults {
        report.problem(
            Code::AclFile,
            Some(format!("{}:{line}:1", path.display())),
            fault,
        );
    }
    Some(acl)
}

/// Reads the rules and the access file anew.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn load_rules(auth: &AuthConfig) -> Result<Rules, Problems> {
    let mut report = Report::default();
    let acl = auth
        .acl_file
        .as_deref()
        .and_then(|path| read_acl(path, &mut report));
    let rules = compile_rules(auth, &mut report).with_acl(acl);
    report.finish()?;
    Ok(rules)
}

fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn compile_rules(auth: &AuthConfig, report: &mut Report) -> Rules {
    match Rules::compile(&auth.rules, auth.default) {
        Ok(rules) => rules,
        Err(faults) => {
            for (index, fault) in faults {
                let key = auth
                    .rules
                    .get(index)
                    .map_or("auth.rules", |rule| rule.key.as_str());
                report.problem_at(Code::AccessRule, &format!("{key}.topics"), fault);
            }
            Rules::default()
        }
    }
}

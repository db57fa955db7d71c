//! Names, passwords, and who is let in.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use dunlin_broker::{
    auth::{Auth, Credentials, Method, Rules, Users, password, users},
    config::ListenerKind,
    net::ListenerInfo,
};
use dunlin_protocol::{ReasonCode, Version};

fn credentials(username: Option<&str>, password: Option<&str>, anonymous: bool) -> Credentials {
    let address = SocketAddr::from(([127, 0, 0, 1], 1883));
    Credentials {
        client_id: "c".into(),
        username: username.map(Into::into),
        password: password.map(|password| password.as_bytes().to_vec().into()),
        tls_name: None,
        certificate: None,
        sni: None,
        version: Version::V5,
        known: false,
        peer: address,
        listener: Arc::new(ListenerInfo {
            name: "tcp-1883".into(),
            kind: ListenerKind::Tcp,
            address,
            anonymous,
            auth: Arc::new(Method::ASKED),
            websocket_hint: "".into(),
            tenant: None,
        }),
    }
}

fn auth(users: Option<Users>) -> Auth {
    Auth::new(users, Rules::default(), 2, Duration::from_secs(10))
}

/// The name for which a client is let in.
type Outcome = Result<Option<String>, ReasonCode>;

async fn ask(auth: &Auth, credentials: Credentials) -> Outcome {
    match auth.authenticate(&credentials).await {
        Ok(principal) => Ok(principal.username.as_deref().map(str::to_owned)),
        Err(refused) => Err(refused.reason),
    }
}

fn named(name: &str) -> Outcome {
    Ok(Some(name.to_owned()))
}

const NOBODY: Outcome = Ok(None);

fn read(path: &Path) -> Users {
    let (users, faults) = Users::parse(&std::fs::read_to_string(path).unwrap());
    assert_eq!(faults, []);
    users
}

// [MQTT-3.1.4-2] v5
#[tokio::test]
async fn a_name_is_checked_against_the_users_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    users::put(&file, "ann", &password::hash("right".as_bytes()).unwrap()).unwrap();
    let auth = auth(Some(read(&file)));
    let wrong = Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    for (name, password, anonymous, expected) in [
        (Some("ann"), Some("right"), false, named("ann")),
        (Some("ann"), Some("wrong"), false, wrong.clone()),
        (Some("ann"), Some(""), false, wrong.clone()),
        (Some("ann"), None, false, wrong.clone()),
        (Some("bob"), Some("right"), false, wrong.clone()),
        (Some(""), Some("right"), false, wrong.clone()),
        // A wrong name is not saved by anonymous access.
        (Some("ann"), Some("wrong"), true, wrong.clone()),
        (None, None, true, NOBODY),
        (None, None, false, Err(ReasonCode::NOT_AUTHORIZED)),
        (None, Some("right"), false, Err(ReasonCode::NOT_AUTHORIZED)),
    ] {
        let outcome = ask(&auth, credentials(name, password, anonymous)).await;
        assert_eq!(outcome, expected, "{name:?} {password:?} {anonymous}");
    }
}

#[tokio::test]
async fn without_a_users_file_a_name_is_none() {
    let auth = auth(None);
    let outcome = ask(&auth, credentials(Some("ann"), Some("x"), true)).await;
    assert_eq!(outcome, NOBODY);
    let refused = ask(&auth, credentials(Some("ann"), Some("x"), false)).await;
    assert_eq!(refused, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
}

#[tokio::test]
async fn the_name_of_a_certificate_takes_the_place_of_the_one_in_connect() {
    let mut credentials = credentials(Some("ann"), Some("wrong"), false);
    credentials.tls_name = Some("sensor-7".into());
    let outcome = ask(&auth(Some(Users::default())), credentials).await;
    assert_eq!(outcome, named("sensor-7"));
}

#[tokio::test]
async fn many_checks_wait_for_their_turn() {
    let hash = password::hash(b"right").unwrap();
    let (users, _) = Users::parse(&format!("ann:{hash}\n"));
    let auth = Arc::new(Auth::new(
        Some(users),
        Rules::default(),
        1,
        Duration::from_secs(60),
    ));
    let mut checks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let auth = Arc::clone(&auth);
        checks
            .spawn(async move { ask(&auth, credentials(Some("ann"), Some("right"), false)).await });
    }
    while let Some(outcome) = checks.join_next().await {
        assert_eq!(outcome.unwrap(), named("ann"));
    }
}

#[tokio::test]
async fn a_check_that_does_not_get_its_turn_says_busy() {
    let hash = password::hash(b"right").unwrap();
    let (users, _) = Users::parse(&format!("ann:{hash}\n"));
    let auth = Arc::new(Auth::new(Some(users), Rules::default(), 1, Duration::ZERO));
    let mut checks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let auth = Arc::clone(&auth);
        checks
            .spawn(async move { ask(&auth, credentials(Some("ann"), Some("right"), false)).await });
    }
    let outcomes = checks.join_all().await;
    assert!(outcomes.contains(&named("ann")), "{outcomes:?}");
    assert!(
        outcomes.contains(&Err(ReasonCode::SERVER_BUSY)),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn in_a_storm_those_who_wait_are_checked_and_the_others_know_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    users::put(&file, "ann", &password::hash("right".as_bytes()).unwrap()).unwrap();
    let users = read(&file);
    let began = std::time::Instant::now();
    assert!(users.verify("ann", b"right"));
    let patience = began.elapsed() * 20;
    let auth = Auth::new(Some(users), Rules::default(), 1, patience);
    let ann = || credentials(Some("ann"), Some("right"), false);
    assert_eq!(ask(&auth, ann()).await, named("ann"));
    let storm = (0..100).map(|_| ask(&auth, ann()));
    let outcomes = futures_util::future::join_all(storm).await;
    let accepted = outcomes
        .iter()
        .filter(|outcome| **outcome == named("ann"))
        .count();
    let busy = outcomes
        .iter()
        .filter(|outcome| **outcome == Err(ReasonCode::SERVER_BUSY))
        .count();
    assert_eq!(accepted + busy, 100, "{outcomes:?}");
    // Those who got in line were not there in vain, or hardly any.
    assert!(
        (3..=60).contains(&accepted),
        "{accepted} accepted, {busy} told that the broker is busy"
    );
}

#[test]
fn files_of_mosquitto_passwd_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    for (index, options) in [&["-c"][..], &["-H", "sha512"], &["-I", "20000"]]
        .iter()
        .enumerate()
    {
        let name = format!("user-{index}");
        let made = Command::new("mosquitto_passwd")
            .args(*options)
            .arg("-b")
            .arg(&file)
            .args([&name, "p\u{e4}ss:word"])
            .output()
            .expect("mosquitto_passwd runs (Debian package mosquitto)");
        assert!(made.status.success(), "{made:?}");
    }
    let users = read(&file);
    assert_eq!(users.len(), 3);
    for index in 0..3 {
        let name = format!("user-{index}");
        assert!(users.verify(&name, "p\u{e4}ss:word".as_bytes()), "{name}");
        assert!(!users.verify(&name, b"password"), "{name}");
    }
}

#[test]
fn hashes_that_cannot_be_used_say_why() {
    for (hash, words) in [
        ("secret", "not hashed"),
        ("", "not hashed"),
        ("$1$abc$def", "not hashed"),
        ("$7$101", "no salt"),
        ("$7$x$AAAA$AAAA", "the number of iterations"),
        ("$7$4000000000$AAAA$AAAA", "the number of iterations"),
        ("$7$101$*$AAAA", "must be base64"),
        ("$7$101$AAAA$AAAA", "has 3 bytes and should have 64"),
        ("$6$AAAA", "no hash"),
        ("$argon2id$v=19$m=0$x", "argon2 hash cannot be read"),
    ] {
        let (users, faults) = Users::parse(&format!("ann:{hash}\n"));
        assert!(users.is_empty());
        assert!(
            faults.len() == 1 && faults[0].1.contains(words),
            "{hash}: {faults:?}"
        );
    }
    let hash = password::hash(b"x").unwrap();
    for (text, words) in [
        (format!("ann:{hash}\nann:{hash}\n"), "stands twice"),
        (format!(":{hash}\n"), "is empty"),
        (format!("{}:{hash}\n", "n".repeat(2_000)), "2000 bytes"),
    ] {
        let (_, faults) = Users::parse(&text);
        assert!(faults[0].1.contains(words), "{faults:?}");
    }
}

#[test]
fn putting_a_user_replaces_only_that_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    users::put(&file, "ann", "$1").unwrap();
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    std::fs::write(&file, "# people\nann:$1\nbob:$2\n").unwrap();
    users::put(&file, "ann", "$3").unwrap();
    users::put(&file, "eve", "$4").unwrap();
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "# people\nann:$3\nbob:$2\neve:$4\n"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

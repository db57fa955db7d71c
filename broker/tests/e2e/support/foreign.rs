//! Programs of others: mosquitto's clients, Python, Node.

use std::{
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use super::wait::wait_until;

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// It has to have ended well.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Lines of standard output.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// A program that runs beside the test. Killed when it goes out of scope.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a program with its output captured.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?} does not start ({error}); `make deps` installs it")
            });
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for its end, within the limit of all waiting.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let mut status = None;
        wait_until("the foreign program ends", || {
            status = self
                .child
                .try_wait()
                .expect("the program can be waited for");
            status.is_some()
        });
        let text = |handle: Option<JoinHandle<String>>| {
            handle
                .map(|handle| handle.join().expect("output is text"))
                .unwrap_or_default()
        };
        Outcome {
            code: status.and_then(|status| status.code()),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes)
            .expect("the output can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a program to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Outcome {
    Running::start(command).finish()
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let broker = Path::new(env!("CARGO_MANIFEST_DIR"));
    broker
        .parent()
        .expect("the crate is in a workspace")
        .to_path_buf()
}

/// The Python with the packages of `scripts/requirements.txt`.
pub(crate) fn python(script: &str) -> Command {
    let interpreter = std::env::var_os("DUNLIN_PYTHON")
        .map_or_else(|| workspace().join(".venv/bin/python"), PathBuf::from);
    assert!(
        interpreter.exists(),
        "{} is missing: run `make deps`",
        interpreter.display()
    );
    let mut command = Command::new(interpreter);
    command.arg(workspace().join("tests-e2e/python").join(script));
    command
}

/// Node with the packages of `tests-e2e/node/package.json`.
pub(crate) fn node(script: &str) -> Command {
    let folder = workspace().join("tests-e2e/node");
    assert!(
        folder.join("node_modules/mqtt").exists(),
        "MQTT.js is missing: run `make deps`"
    );
    let mut command = Command::new("node");
    command.arg(folder.join(script));
    command
}

/// Adds a user to a password file that only its owner may read.
pub(crate) fn add_user(file: &Path, user: &str, password: &str) {
    if !file.exists() {
        fs::write(file, "").expect("the password file can be written");
    }
    fs::set_permissions(file, Permissions::from_mode(0o600)).expect("its permissions can be set");
    run(Command::new("mosquitto_passwd")
        .arg("-b")
        .arg(file)
        .args([user, password]))
    .success();
}

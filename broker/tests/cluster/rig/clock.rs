//! The wall clock of a Redis, which a test may set while it runs.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    time::Duration,
};

/// How far the clock of one server is off.
pub(crate) struct Clock {
    path: PathBuf,
    file: Mutex<File>,
}

impl Clock {
    /// A clock that is right. `dir` keeps its file.
    pub(crate) fn new(dir: &Path) -> Self {
        let path = dir.join("clock");
        let file = File::create(&path).expect("the clock's file can be made");
        let clock = Self {
            path,
            file: Mutex::new(file),
        };
        clock.set(0);
        clock
    }

    /// Puts the clock ahead of the system's by so much from now on.
    pub(crate) fn ahead(&self, by: Duration) {
        self.set(i64::try_from(by.as_micros()).expect("not so many years"));
    }

    /// Puts the clock behind the system's by so much from now on.
    pub(crate) fn behind(&self, by: Duration) {
        self.set(-i64::try_from(by.as_micros()).expect("not so many years"));
    }

    fn set(&self, offset_us: i64) {
        let mut file = self.file.lock().expect("no test panicked with it");
        file.seek(SeekFrom::Start(0))
            .expect("the file can be sought");
        file.write_all(&offset_us.to_ne_bytes())
            .expect("the file can be written");
    }

    /// Makes the process run by this clock.
    pub(crate) fn apply(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("DUNLIN_TEST_CLOCK", &self.path);
    }
}

/// What is preloaded; built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let name = format!("clock-{}.so", std::process::id());
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/rig/clock.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .status()
            .expect("there is a C compiler, as Rust needs one to link");
        assert!(status.success(), "clock.c does not compile: {status}");
        library
    })
}

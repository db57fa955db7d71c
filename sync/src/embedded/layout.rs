//! The directory of a store: who may use it, what is in it, how it comes to be.
//!
//! ```text
//! dunlin-store.toml   what this is, and in which format; written when the store is created
//! lock                held while the store is open; contains the process id
//! acknowledged        number of the last acknowledged commit
//! data/               the storage engine's own
//! data.new/           a creation that was interrupted; removed
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The format this build reads and writes.
pub(crate) const FORMAT: u32 = 1;

const MARKER: &str = "dunlin-store.toml";
const LOCK: &str = "lock";
const ACKNOWLEDGED: &str = "acknowledged";
const DATA: &str = "data";
const DATA_NEW: &str = "data.new";

/// Files that may lie in a directory without making it something else than an empty store.
const HARMLESS: [&str; 3] = [LOCK, DATA_NEW, "lost+found"];

/// A directory that is ours, locked until dropped.
pub(crate) struct Layout {
    root: PathBuf,
    _lock: File,
}

impl Layout {
    /// Creates the directory if need be, checks that it is a store or empty, and locks it.
    pub(crate) fn prepare(root: &Path) -> Result<Self, StoreError> {
        prepare_directory(root)?;
        let known = read_marker(root)?;
        if !known {
            refuse_foreign(root)?;
        }
        let lock = acquire_lock(root)?;
        // Another process may have created the store in between.
        if !known && !read_marker(root)? {
            write_marker(root)?;
        }
        Ok(Self {
            root: root.to_path_buf(),
            _lock: lock,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join(DATA)
    }

    pub(crate) fn data_new(&self) -> PathBuf {
        self.root.join(DATA_NEW)
    }

    pub(crate) fn acknowledged(&self) -> PathBuf {
        self.root.join(ACKNOWLEDGED)
    }

    /// Whether the data directory is there; removes what an interrupted creation has left.
    pub(crate) fn has_data(&self) -> Result<bool, StoreError> {
        let new = self.data_new();
        match std::fs::remove_dir_all(&new) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &new, &error)),
        }
        let data = self.data();
        data.try_exists()
            .map_err(|error| StoreError::io("read", &data, &error))
    }

    /// The data were created in full under another name: give them their own.
    pub(crate) fn adopt_new_data(&self) -> Result<(), StoreError> {
        let data = self.data();
        std::fs::rename(self.data_new(), &data)
            .map_err(|error| StoreError::io("rename", &data, &error))?;
        sync_directory(&self.root)
    }

    /// How many tables there are: stores of earlier versions lack the last one.
    pub(crate) fn tables(&self, first: usize, all: usize) -> Result<usize, StoreError> {
        let data = self.data();
        for table in first + 1..=all {
            let current = table_file(&data, table);
            let found = current
                .try_exists()
                .map_err(|error| StoreError::io("read", &current, &error))?;
            if !found {
                return Ok(table - 1);
            }
        }
        Ok(all)
    }

    /// Checks that nothing the engine would silently create anew or drop is missing.
    pub(crate) fn check_data(&self, tables: usize) -> Result<(), StoreError> {
        let data = self.data();
        require(&data.join("version"))?;
        require(&data.join("lock"))?;
        // Number 0 is the engine's own; ours follow.
        for table in 0..=tables {
            require(&table_file(&data, table))?;
        }
        Ok(())
    }
}

/// The file without which the engine takes a table for missing.
fn table_file(data: &Path, table: usize) -> PathBuf {
    data.join("keyspaces")
        .join(table.to_string())
        .join("current")
}

fn require(path: &Path) -> Result<(), StoreError> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::damaged(
            path.display().to_string(),
            "the file is missing",
        )),
        Err(error) => Err(StoreError::io("read", path, &error)),
    }
}

fn prepare_directory(root: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(root) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(StoreError::NotADirectory {
            path: root.to_path_buf(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(root)
            .map_err(|error| StoreError::io("create directory", root, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(StoreError::NotADirectory {
                path: root.to_path_buf(),
            })
        }
        Err(error) => Err(StoreError::io("read", root, &error)),
    }
}

fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::io("read", root, &error);
    for entry in std::fs::read_dir(root).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_string_lossy();
        if !HARMLESS.contains(&&*name) && !name.ends_with(".tmp") {
            return Err(StoreError::NotAStore {
                path: root.to_path_buf(),
                found: name.into_owned(),
            });
        }
    }
    Ok(())
}

fn acquire_lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join(LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            return Err(StoreError::InUse {
                path: root.to_path_buf(),
                pid: read.ok().and_then(|_| text.trim().parse().ok()),
            });
        }
        Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path, &error)),
    }
    let write = || -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    let mut write = write;
    write().map_err(|error| StoreError::io("write", &path, &error))?;
    Ok(file)
}

/// Whether the marker is there; an error if it names a format that we do not read.
fn read_marker(root: &Path) -> Result<bool, StoreError> {
    let path = root.join(MARKER);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("read", &path, &error)),
    };
    let found = parse_format(&text);
    if found == Some(FORMAT.to_string().as_str()) {
        return Ok(true);
    }
    Err(StoreError::UnknownFormat {
        path: root.to_path_buf(),
        found: found.map_or_else(|| format!("that {MARKER} does not state"), str::to_owned),
        supported: FORMAT,
    })
}

fn parse_format(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "format").then(|| value.trim())
    })
}

fn write_marker(root: &Path) -> Result<(), StoreError> {
    let text = format!(
        "# The durable state of a dunlin MQTT broker. Nothing in this directory is to be edited by hand.\n\
         format = {FORMAT}\n"
    );
    let temporary = root.join("dunlin-store.toml.tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, root.join(MARKER))
    };
    write().map_err(|error| StoreError::io("write", &root.join(MARKER), &error))?;
    sync_directory(root)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::io("flush", path, &error))
}

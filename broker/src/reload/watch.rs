//! Notices that files have been replaced.
//!
//! By looking every few seconds, not by notification: secrets of Kubernetes are swapped by a symbolic link two folders
//! away, network file systems do not notify, and what is watched is a handful of files that change once a month.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// What changes when a file is written or replaced, links followed; `None`: it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What the files looked like.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// At the last look.
    seen: Option<Vec<(PathBuf, Stamp)>>,
    /// They have changed, and perhaps not all yet: a certificate and its key are two files.
    changing: bool,
}

impl Watch {
    /// Whether something has changed, and nothing more since the last look. The first look counts as a change: the
    /// files were read some time before it.
    pub(super) fn look(&mut self, files: Vec<PathBuf>) -> bool {
        let stamps: Vec<_> = files
            .into_iter()
            .map(|file| {
                let stamp = stamp(&file);
                (file, stamp)
            })
            .collect();
        let differs = self.seen.as_ref().is_none_or(|seen| *seen != stamps);
        self.seen = Some(stamps);
        let settled = self.changing && !differs;
        self.changing = differs;
        settled
    }
}

fn stamp(file: &std::path::Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

/// When to look.
pub(super) struct Ticks(Option<tokio::time::Interval>);

impl Ticks {
    /// Every `period`; never if that is none.
    pub(super) fn every(period: Duration) -> Self {
        let interval = (!period.is_zero()).then(|| tokio::time::interval(period));
        Self(interval.map(|mut interval| {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Resolves when it is time. Cancel safe.
    pub(super) async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_told_once_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let files = || vec![certificate.clone(), key.clone()];
        fs::write(&certificate, "1").unwrap();
        fs::write(&key, "1").unwrap();
        let mut watch = Watch::default();
        assert!(!watch.look(files()), "the first look");
        assert!(watch.look(files()), "they may have changed before it");
        assert!(!watch.look(files()));
        fs::write(&certificate, "22").unwrap();
        assert!(!watch.look(files()), "perhaps not all of it yet");
        fs::write(&key, "22").unwrap();
        assert!(!watch.look(files()), "still changing");
        assert!(watch.look(files()));
        assert!(!watch.look(files()), "told already");
        fs::remove_file(&key).unwrap();
        assert!(!watch.look(files()));
        assert!(watch.look(files()), "gone is a change, too");
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("tls.crt"), "as long").unwrap();
        }
        std::os::unix::fs::symlink("v1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/tls.crt", path("tls.crt")).unwrap();
        let mut watch = Watch::default();
        assert!(!watch.look(vec![path("tls.crt")]));
        assert!(watch.look(vec![path("tls.crt")]));
        // As the kubelet does it.
        std::os::unix::fs::symlink("v2", path("..tmp")).unwrap();
        fs::rename(path("..tmp"), path("..data")).unwrap();
        assert!(!watch.look(vec![path("tls.crt")]));
        assert!(watch.look(vec![path("tls.crt")]));
    }
}

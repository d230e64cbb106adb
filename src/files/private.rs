//! Who may write to a file or folder: what belongs to this user alone, and what a stranger could have put there.

use crate::error::{Error, Result};
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Permission of the group and of others to write.
const OTHERS_WRITE: u32 = 0o022;
/// Permission of everybody to write, and the bit by which each may nevertheless remove only entries of their own.
const ALL_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Returns the effective user of this process; none where there is no /proc to ask.
pub fn user() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|meta| meta.uid())
}

/// Returns true for a folder in which everybody may make entries, such as /tmp.
pub fn is_shared(folder: &Metadata) -> bool {
    folder.mode() & ALL_WRITE != 0
}

/// Checks that `meta` is a file or folder of `user`, which nobody else may write to.
pub fn check_own(path: &Path, meta: &Metadata, user: u32) -> Result<()> {
    let path = path.display();
    if meta.uid() != user {
        return Err(Error::data(format!("{path} belongs to user {}, not to user {user}", meta.uid())));
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(Error::data(format!("{path} can be written by others (mode {mode:04o}); 'chmod go-w' it")));
    }
    Ok(())
}

/// Makes the folder `path` for this user alone (mode 0700), parents included, unless it is there. Returns its path without
/// links, after checking that it is a folder of `user`, not a link, and that no folder above lets others exchange it.
///
/// # Errors
/// CantCreate: it cannot be made. Data: others could write there.
pub fn folder(path: &Path, user: u32) -> Result<PathBuf> {
    let failed = |e: io::Error| Error::io("create folder", path, &e);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let meta = std::fs::symlink_metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return Err(Error::data(format!("{} is a link; name the folder itself", path.display())));
    }
    check_own(path, &meta, user)?;
    let real = path.canonicalize().map_err(failed)?;
    match real.ancestors().skip(1).find(|above| lets_all_exchange(above)) {
        Some(above) => Err(Error::data(format!("{} can be written by everybody", above.display()))),
        None => Ok(real),
    }
}

/// Makes a new folder in `within` for this user alone, under a name that nobody can foresee.
///
/// # Errors
/// CantCreate: it cannot be made.
pub fn new_folder(within: &Path, begin: &str) -> Result<PathBuf> {
    let path = within.join(format!("{begin}{:016x}", super::random()));
    DirBuilder::new().mode(0o700).create(&path).map_err(|e| Error::io("create folder", &path, &e))?;
    Ok(path)
}

/// Reads a file in a folder that [`folder`] returned; none if there is none.
///
/// # Errors
/// Data: it is no regular file, or others could have written it. NoInput, Io: it cannot be read.
pub fn read(path: &Path, user: u32) -> Result<Option<Vec<u8>>> {
    let failed = |e: io::Error| Error::io("read", path, &e);
    let named = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    if !named.is_file() {
        return Err(Error::data(format!("{} is no regular file", path.display())));
    }
    // Checks the opened file, and that the name still leads to it: no link was followed.
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if (meta.dev(), meta.ino()) != (named.dev(), named.ino()) {
        return Err(Error::data(format!("{} was exchanged while it was opened", path.display())));
    }
    check_own(path, &meta, user)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Returns true if neither the file at `path` nor a folder above can be exchanged by anybody but root, the user and `owner`.
pub fn is_trusted(path: &Path, owner: u32) -> bool {
    let trusted = |owned: &Metadata| owned.uid() == 0 || owned.uid() == owner || Some(owned.uid()) == user();
    let Ok(real) = path.canonicalize() else { return false };
    real.ancestors().all(|part| std::fs::metadata(part).is_ok_and(|m| trusted(&m)) && !lets_all_exchange(part))
}

/// Returns true for a file or folder that everybody may write to, unless it keeps what others own in it.
fn lets_all_exchange(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.mode() & ALL_WRITE != 0 && !(meta.is_dir() && meta.mode() & STICKY != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_folder_of_the_users_own_that_others_cannot_write_is_private() {
        let (scratch, user) = (TestFolder::new("private"), user().unwrap());
        let own = scratch.0.join("deep/own");
        let made = folder(&own, user).unwrap();
        assert_eq!((made, fs::metadata(&own).unwrap().mode() & 0o777), (own.canonicalize().unwrap(), 0o700));
        for (mode, says) in [(0o777, "mode 0777"), (0o720, "mode 0720"), (0o1777, "mode 1777")] {
            set_mode(&own, mode);
            let e = folder(&own, user).unwrap_err().to_string();
            assert!(e.contains("own can be written by others") && e.contains(says), "{e}");
        }
        set_mode(&own, 0o755);
        folder(&own, user).unwrap();
        set_mode(&scratch.0.join("deep"), 0o777);
        let e = folder(&own, user).unwrap_err().to_string();
        assert!(e.contains("deep can be written by everybody"), "{e}");
        set_mode(&scratch.0.join("deep"), 0o1777);
        folder(&own, user).unwrap();

        let link = scratch.0.join("link");
        symlink(&own, &link).unwrap();
        assert!(folder(&link, user).unwrap_err().to_string().contains("link is a link"));
        // Only root can give a folder away.
        if chown(&own, Some(12345), None).is_ok() {
            assert!(folder(&own, user).unwrap_err().to_string().contains("own belongs to user 12345"));
        }
    }

    #[test]
    fn a_file_is_read_only_if_nobody_else_could_have_written_it() {
        let (scratch, user) = (TestFolder::new("own-file"), user().unwrap());
        let (path, link) = (scratch.0.join("file"), scratch.0.join("link"));
        assert_eq!(read(&path, user), Ok(None));
        fs::write(&path, "text").unwrap();
        set_mode(&path, 0o644);
        assert_eq!(read(&path, user), Ok(Some(b"text".to_vec())));
        symlink(&path, &link).unwrap();
        assert!(read(&link, user).unwrap_err().to_string().contains("link is no regular file"));
        set_mode(&path, 0o664);
        assert!(read(&path, user).unwrap_err().to_string().contains("can be written by others"));
        set_mode(&path, 0o644);
        let is_root = chown(&path, Some(12345), None).is_ok();
        assert_eq!(read(&path, user).is_err(), is_root);
        assert!(is_trusted(&path, 12345));
        assert_eq!(is_trusted(&path, user), !is_root);
        set_mode(&path, 0o666);
        assert!(!is_trusted(&path, 12345));
    }

    #[test]
    fn new_folders_have_names_that_cannot_be_foreseen() {
        let scratch = TestFolder::new("new-folders");
        let made: Vec<PathBuf> = (0..3).map(|_| new_folder(&scratch.0, "build-").unwrap()).collect();
        assert!(made[0] != made[1] && made[1] != made[2]);
        assert!(made.iter().all(|path| fs::metadata(path).unwrap().mode() & 0o777 == 0o700));
    }
}

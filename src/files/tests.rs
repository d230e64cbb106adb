//! Tests of writing files whole, and of their SHA-256.

use super::*;
use std::os::unix::fs::{FileTypeExt, lchown, symlink};
use std::process::Command;
use std::thread;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
    let folder = TestFolder::new("replace");
    let path = folder.0.join("weights");
    for bytes in [&b"a long first version"[..], b"short", b""] {
        write_atomic(&path, bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(names(&folder.0), ["weights"]);
    }
}

#[test]
fn a_failed_write_keeps_what_was_there_and_says_which_file() {
    let folder = TestFolder::new("failed");
    let occupied = folder.0.join("occupied");
    fs::create_dir_all(occupied.join("child")).unwrap();
    let e = write_atomic(&occupied, b"x").unwrap_err();
    assert!(e.to_string().contains("occupied"), "{e}");
    assert_eq!(names(&folder.0), ["occupied"]);
    assert_eq!(names(&occupied), ["child"]);

    let e = write_atomic(&folder.0.join("no/such/folder"), b"x").unwrap_err();
    assert_eq!(e.kind, Kind::CantCreate, "{e}");
    assert_eq!(write_atomic(Path::new("/"), b"x").unwrap_err().kind, Kind::Usage);
}

#[test]
fn a_text_is_read_up_to_its_limit_and_no_further() {
    let folder = TestFolder::new("limit");
    let path = folder.0.join("text");
    fs::write(&path, "sixteen bytes ok").unwrap();
    assert_eq!(read_text(&path, 16).unwrap(), "sixteen bytes ok");
    let long = read_text(&path, 15).unwrap_err();
    assert!(long.kind == Kind::Data && long.to_string().contains("text is 16 bytes long, and at most 15"), "{long}");
    fs::write(&path, b"lr =\xff").unwrap();
    assert!(read_text(&path, 16).unwrap_err().to_string().ends_with("text: byte 4 is not UTF-8 text"));
    assert_eq!(read_text(&folder.0, 16).unwrap_err().kind, Kind::NoInput);
    // Devices and pipes have no size to look at first.
    let endless = read_text(Path::new("/dev/zero"), 1 << 20).unwrap_err();
    assert!(endless.kind == Kind::Data && endless.to_string().contains("at most 1 MiB are expected"), "{endless}");
}

/// FIPS 180-4's example "abc", and its one-million-'a' message through the stream.
#[test]
fn sha256_matches_the_standard() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256_hex(b"abc"), abc);
    let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    assert_eq!(sha256_stream(&mut &vec![b'a'; 1_000_000][..]).unwrap(), million);
}

/// The lines of the crate's sources and examples that contain one of `words`, without comments, tests and the files named.
pub(crate) fn lines_with(words: &[&str], except: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = ["src", "examples"].map(|name| root.join(name)).to_vec();
    let (mut files, mut found) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(root.join("src")).unwrap_or(&path).to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !except.contains(&&name[..]) && !name.ends_with("tests.rs") {
                files += 1;
                let text = fs::read_to_string(&path).unwrap();
                let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let program = program.split("#[cfg(test)]\npub(crate) mod tests {").next().unwrap();
                let lines = program.lines().zip(1..).filter(|(line, _)| !line.trim_start().starts_with("//"));
                let lines = lines.filter(|(line, _)| words.iter().any(|word| line.contains(word)));
                found.extend(lines.map(|(line, number)| format!("{name}:{number}: {line}")));
            }
        }
    }
    assert!(files > 100, "{files}");
    found
}

/// Outputs that a user names are written by [`write_atomic`], which keeps devices, FIFOs and links.
#[test]
fn nothing_else_in_the_crate_creates_a_file_under_a_name_that_a_user_gives() {
    let own = [
        "files.rs",
        // In a folder that the program has just made for itself.
        "device/cuda/emulator/compiler.rs",
        "data/fetch/unpack.rs",
        "train/records.rs",
        // A file of /proc.
        "bench/process.rs",
    ];
    let found = lines_with(&["fs::write(", "File::create(", "File::create_new("], &own);
    assert!(found.is_empty(), "use files::write_atomic:\n{}", found.join("\n"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_replaced() {
    let folder = TestFolder::new("links");
    fs::create_dir(folder.0.join("below")).unwrap();
    let target = folder.0.join("below/target");
    fs::write(&target, "old").unwrap();
    for (link, to) in [("first", "below/target"), ("second", "first"), ("to come", "below/new"), ("around", "around")] {
        symlink(to, folder.0.join(link)).unwrap();
    }
    for (link, place) in [("second", "below/target"), ("to come", "below/new")] {
        let path = folder.0.join(link);
        check_place(&path).unwrap();
        write_atomic(&path, link.as_bytes()).unwrap();
        assert_eq!(fs::read(folder.0.join(place)).unwrap(), link.as_bytes());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }
    assert_eq!(names(&folder.0.join("below")), ["new", "target"]);
    let e = write_atomic(&folder.0.join("around"), b"x").unwrap_err();
    assert!(e.to_string().contains("around: more than 40 links"), "{e}");
    symlink("no/such", folder.0.join("nowhere")).unwrap();
    let e = check_place(&folder.0.join("nowhere")).unwrap_err();
    assert!(e.kind == Kind::CantCreate && e.to_string().contains("there is no folder"), "{e}");
}

#[test]
fn what_is_no_regular_file_is_written_and_stays_what_it_is() {
    let folder = TestFolder::new("streams");
    let make = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder.0).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if make("mkfifo", &["fifo"]) {
        symlink("fifo", folder.0.join("link")).unwrap();
        for name in ["fifo", "link"] {
            let path = folder.0.join(name);
            check_place(&path).unwrap();
            let reader = path.clone();
            let reader = thread::spawn(move || fs::read(reader).unwrap());
            write_atomic(&path, b"for the reader").unwrap();
            assert_eq!(reader.join().unwrap(), b"for the reader", "{name}");
            assert!(fs::symlink_metadata(folder.0.join("fifo")).unwrap().file_type().is_fifo());
        }
        assert!(fs::symlink_metadata(folder.0.join("link")).unwrap().is_symlink());
    }
    // The numbers of /dev/null and /dev/full. Only root can make a device, and some file systems open none.
    for (name, minor, fails) in [("null", "3", false), ("full", "7", true)] {
        let path = folder.0.join(name);
        if make("mknod", &[name, "c", "1", minor]) && OpenOptions::new().append(true).open(&path).is_ok() {
            let written = write_atomic(&path, b"x");
            assert_eq!(written.as_ref().err().map(|e| e.kind), fails.then_some(Kind::Io), "{written:?}");
            assert!(fs::symlink_metadata(&path).unwrap().file_type().is_char_device(), "{name}");
        }
    }
    assert!(names(&folder.0).iter().all(|name| !name.ends_with(".tmp")));
}

#[test]
fn permissions_and_owner_of_a_replaced_file_are_kept() {
    let folder = TestFolder::new("mode");
    let path = folder.0.join("private");
    fs::write(&path, "old").unwrap();
    for kept in [0o600, 0o640, 0o444, 0o755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(mode(&path), kept);
    }
    // Only root can give a file away.
    if lchown(&path, Some(12345), Some(12345)).is_ok() {
        write_atomic(&path, b"newer").unwrap();
        assert_eq!((fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid()), (12345, 12345));
    }
}

#[test]
fn a_strangers_link_in_a_shared_folder_is_not_followed() {
    let folder = TestFolder::new("shared");
    let (shared, ours) = (folder.0.join("shared"), folder.0.join("ours"));
    fs::create_dir(&shared).unwrap();
    fs::write(&ours, "ours").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let link = shared.join("results.csv");
    symlink(&ours, &link).unwrap();
    write_atomic(&link, b"by our own link").unwrap();
    if lchown(&link, Some(12345), None).is_ok() {
        let e = write_atomic(&link, b"x").unwrap_err();
        assert!(e.kind == Kind::CantCreate && e.to_string().contains("a link of another user"), "{e}");
        assert_eq!(fs::read(&ours).unwrap(), b"by our own link");
    }
}

use super::*;
use crate::data::known::{Identity, KnownFile};
use crate::files::{TestFolder, sha256_hex};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PATIENCE: Patience = Patience { attempts: 3, pause: Duration::ZERO, timeout: Duration::from_millis(500) };

/// The server's treatment of a request.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Whole,
    /// Closes the connection after this many bytes of the body.
    Break(usize),
    /// Sends that many and then nothing more.
    Stall(usize),
    /// Answers 200 with everything, whatever range was asked for.
    NoRange,
    Status(&'static str),
    /// Leads to another path of this server.
    Redirect(&'static str),
    /// Says that the file is this long.
    Length(usize),
}

/// A web server of one file that treats each request as the list says, and all later ones like the last.
struct Server {
    url: String,
    /// Path and range of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(file: Vec<u8>, manners: &[Manner]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, manners) = (requests.clone(), manners.to_vec());
        // The thread ends with the test program.
        thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let manner = manners[i.min(manners.len() - 1)];
                let (file, log) = (file.clone(), log.clone());
                thread::spawn(move || answer(stream.unwrap(), &file, manner, &log));
            }
        });
        Server { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, file: &[u8], manner: Manner, log: &Mutex<Vec<String>>) {
    let (mut path, mut range) = (String::new(), None);
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("GET", rest)) => path = rest.split(' ').next().unwrap().to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("range:") => range = Some(value.to_owned()),
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    log.lock().unwrap().push(format!("{path} {}", range.as_deref().unwrap_or("all")));
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let head = |status: &str, more: String| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n");
    let (head, body) = match (manner, from) {
        (Manner::Status(status), _) => (head(status, "Content-Length: 0\r\n".into()), &[][..]),
        (Manner::Redirect(to), _) => (head("302 Found", format!("Location: {to}\r\nContent-Length: 0\r\n")), &[][..]),
        (Manner::Length(len), _) => (head("200 OK", format!("Content-Length: {len}\r\n")), file),
        (Manner::NoRange, _) | (_, None) => (head("200 OK", format!("Content-Length: {}\r\n", file.len())), file),
        (_, Some(from)) => {
            let (len, last) = (file.len() - from, file.len() - 1);
            let range = format!("Content-Length: {len}\r\nContent-Range: bytes {from}-{last}/{}\r\n", file.len());
            (head("206 Partial Content", range), &file[from..])
        }
    };
    let sent = match manner {
        Manner::Break(n) | Manner::Stall(n) => &body[..n.min(body.len())],
        _ => body,
    };
    // The other end may have heard enough.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
    if matches!(manner, Manner::Stall(_)) {
        thread::sleep(Duration::from_secs(2));
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // A connection that is closed with unread bytes is reset, and the answer lost.
    let _ = stream.read(&mut [0; 16]);
}

fn leak<T: ?Sized>(value: Box<T>) -> &'static T {
    Box::leak(value)
}

fn identity_of(bytes: &[u8]) -> Identity {
    Identity { len: bytes.len() as u64, sha256: leak(sha256_hex(bytes).into_boxed_str()) }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The content of one of the small set's files: hardly to be packed, so that a break falls somewhere within.
fn content(name: &str) -> Vec<u8> {
    (0..20_000u32).flat_map(|i| crate::rng::philox([i, name.len() as u32, 0, 0], [7, 7])[0].to_le_bytes()).collect()
}

/// A known set with the files of CIFAR-100, whose archive is `packed`.
fn known(packed: &[u8]) -> Known {
    let file = |name: &'static str| KnownFile { name, id: identity_of(&content(name)) };
    let archive = Archive { name: "small.tar.gz", id: identity_of(packed), packing: Packing::TarGz };
    Known {
        name: "small",
        about: "",
        folder: "small-binary",
        format: Format::Cifar100,
        class_names: &[],
        coarse_names: &[],
        mean: [0.0; 4],
        std: [1.0; 4],
        files: leak(Box::new([file("train.bin"), file("test.bin")])),
        urls: &["http://authors.invalid/data/"],
        archives: leak(Box::new([archive])),
    }
}

/// A tar header written by hand: the crate refuses to make evil ones.
fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.as_mut_bytes()[156] = kind;
    if kind == b'2' {
        header.as_mut_bytes()[157..157 + 11].copy_from_slice(b"/etc/passwd");
    }
    header.set_cksum();
    let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    [header.as_bytes(), content, &padding].concat()
}

fn tar_gz(entries: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[entries.concat(), vec![0; 1024]].concat())
}

fn good_archive() -> Vec<u8> {
    let file = |name: &str| entry(&format!("small-binary/{name}"), b'0', &content(name));
    let directory = entry("small-binary/", b'5', &[]);
    tar_gz(&[directory, file("train.bin"), entry("small-binary/readme.html", b'0', b"hello"), file("test.bin")])
}

fn run(known: &Known, url: &str, out: &Path) -> Result<Outcome> {
    fetch(&Order { known, url: Some(url), out, patience: PATIENCE }, &mut |_| ())
}

#[track_caller]
fn refused(result: Result<Outcome>, kind: Kind, says: &[&str]) {
    let e = result.unwrap_err();
    assert_eq!(e.kind, kind, "{e}");
    says.iter().for_each(|says| assert!(e.to_string().contains(says), "'{e}' does not say '{says}'"));
    assert!(!e.to_string().contains('\n'), "{e}");
}

fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn complete(out: &Path) {
    for name in ["train.bin", "test.bin"] {
        assert!(fs::read(out.join("small-binary").join(name)).unwrap() == content(name), "{name}");
    }
    assert_eq!(
        (list(out), list(&out.join("small-binary"))),
        (vec!["small-binary".into()], vec!["test.bin".into(), "train.bin".into()])
    );
}

#[test]
fn a_set_is_downloaded_and_unpacked_whole_and_only_once() {
    let (folder, packed) = (TestFolder::new("fetch"), good_archive());
    let (known, out) = (known(&packed), folder.0.join("new/data"));
    let server = Server::new(packed.clone(), &[Manner::Redirect("/elsewhere"), Manner::Whole]);
    let (mut heard, order) =
        (Vec::new(), Order { known: &known, url: Some(&server.url), out: &out, patience: PATIENCE });
    let outcome = fetch(&order, &mut |p| heard.push((p.done, p.total, p.before))).unwrap();
    assert_eq!(outcome, Outcome::Fetched(out.join("small-binary")));
    complete(&out);
    let total = packed.len() as u64;
    assert!(heard.first() == Some(&(0, total, 0)) && heard.last() == Some(&(total, total, 0)), "{heard:?}");
    assert_eq!(server.requests(), ["/small.tar.gz all", "/elsewhere all"]);
    assert_eq!(run(&known, &server.url, &out).unwrap(), Outcome::Complete(out.join("small-binary")));
    assert_eq!(server.requests().len(), 2);

    // A lost file comes back, and what is there stays; a file that is another's is not replaced.
    fs::remove_file(out.join("small-binary/test.bin")).unwrap();
    fs::write(out.join("small-binary/notes.txt"), "mine").unwrap();
    run(&known, &server.url, &out).unwrap();
    fs::remove_file(out.join("small-binary/notes.txt")).unwrap();
    complete(&out);
    fs::write(out.join("small-binary/test.bin"), "other").unwrap();
    refused(run(&known, &server.url, &out), Kind::Data, &["replaces no files", "test.bin", "5 bytes instead of 80000"]);
    assert_eq!(fs::read(out.join("small-binary/test.bin")).unwrap(), b"other");
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let packed = good_archive();
    let total = packed.len();
    for (manners, requests) in [
        (
            vec![Manner::Break(50_000), Manner::Break(30_000), Manner::Whole],
            vec!["all", "bytes=50000-", "bytes=80000-"],
        ),
        (vec![Manner::Stall(1000), Manner::Whole], vec!["all", "bytes=1000-"]),
        (vec![Manner::Break(50_000), Manner::NoRange], vec!["all", "bytes=50000-"]),
        (vec![Manner::Status("503 Busy"), Manner::Whole], vec!["all", "all"]),
        (
            vec![Manner::Break(9), Manner::Status("416 Range Not Satisfiable"), Manner::Whole],
            vec!["all", "bytes=9-", "all"],
        ),
    ] {
        let folder = TestFolder::new("broken");
        let server = Server::new(packed.clone(), &manners);
        run(&known(&packed), &server.url, &folder.0).unwrap();
        complete(&folder.0);
        let expected: Vec<String> = requests.iter().map(|range| format!("/small.tar.gz {range}")).collect();
        assert_eq!(server.requests(), expected);
    }

    // The part of an earlier process is continued, be it right, wrong or too long.
    for (left, requests) in [
        (packed[..7000].to_vec(), vec!["bytes=7000-"]),
        (vec![1; 7000], vec!["bytes=7000-", "all"]),
        (vec![1; total], vec!["all"]),
        (vec![1; total + 5], vec!["all"]),
        (packed.clone(), vec![]),
    ] {
        let folder = TestFolder::new("left");
        fs::write(folder.0.join("small.tar.gz.part"), &left).unwrap();
        // So did one that was killed while it unpacked.
        fs::create_dir(folder.0.join(".small-binary.part")).unwrap();
        fs::write(folder.0.join(".small-binary.part/train.bin"), "half").unwrap();
        let server = Server::new(packed.clone(), &[Manner::Whole]);
        run(&known(&packed), &server.url, &folder.0).unwrap();
        complete(&folder.0);
        let expected: Vec<String> = requests.iter().map(|range| format!("/small.tar.gz {range}")).collect();
        assert_eq!(server.requests(), expected);
    }
}

/// A kill leaves downloads and half a folder, whose names are the fetch's own; archives that a user has put there stay.
#[test]
fn leftovers_of_a_killed_fetch_are_removed_by_the_next() {
    let packed = good_archive();
    let known = known(&packed);
    let leave = |out: &Path| {
        fs::write(out.join("small.tar.gz.part"), &packed).unwrap();
        fs::create_dir(out.join(".small-binary.part")).unwrap();
        fs::write(out.join(".small-binary.part/train.bin"), "half").unwrap();
    };
    let folder = TestFolder::new("killed");
    leave(&folder.0);
    let server = Server::new(packed.clone(), &[Manner::Whole]);
    let outcome = || run(&known, &server.url, &folder.0).unwrap();
    // While it unpacked, and between the last file's place and the end.
    assert_eq!(outcome(), Outcome::Fetched(folder.0.join("small-binary")));
    complete(&folder.0);
    leave(&folder.0);
    assert_eq!(outcome(), Outcome::Complete(folder.0.join("small-binary")));
    complete(&folder.0);
    fs::write(folder.0.join("small.tar.gz"), &packed).unwrap();
    leave(&folder.0);
    outcome();
    assert_eq!(list(&folder.0), ["small-binary", "small.tar.gz"]);
    assert!(server.requests().is_empty());

    // Neither followed nor waited for.
    let folder = TestFolder::new("part-link");
    std::os::unix::fs::symlink("elsewhere", folder.0.join("small.tar.gz.part")).unwrap();
    refused(run(&known, &server.url, &folder.0), Kind::CantCreate, &["small.tar.gz.part is no regular file"]);
}

#[test]
fn what_the_server_does_wrong_is_told_and_leaves_nothing_behind() {
    let packed = good_archive();
    let known = known(&packed);
    let mut other = packed.clone();
    other[5000] ^= 1;
    let hand =
        ["without a network, get small.tar.gz", known.archives[0].id.sha256, "from http://authors.invalid/data/"];
    let cases: &[(Vec<u8>, &[Manner], Kind, &str)] = &[
        (other, &[Manner::Whole], Kind::Data, "is not the original: its SHA-256 is"),
        (packed.clone(), &[Manner::Length(7)], Kind::Unavailable, "it has 7 bytes there, the original has"),
        (packed.clone(), &[Manner::Status("404 Not Found")], Kind::Unavailable, "the server answered 404"),
        (packed.clone(), &[Manner::Status("503 Busy")], Kind::Unavailable, "the server answered 503"),
        (packed.clone(), &[Manner::Redirect("/round")], Kind::Unavailable, "redirects"),
    ];
    for (file, manners, kind, says) in cases {
        let folder = TestFolder::new("wrong");
        let server = Server::new(file.clone(), manners);
        let result = run(&known, &server.url, &folder.0);
        if *kind == Kind::Unavailable {
            hand.iter().for_each(|part| assert!(result.as_ref().unwrap_err().to_string().contains(part)));
        }
        refused(result, *kind, &[says, "/small.tar.gz"]);
        assert!(list(&folder.0).is_empty(), "{:?}", list(&folder.0));
    }

    // A connection that always breaks at once keeps what it brought for the next time.
    let folder = TestFolder::new("hopeless");
    let server = Server::new(packed.clone(), &[Manner::Break(100), Manner::Break(0)]);
    refused(run(&known, &server.url, &folder.0), Kind::Unavailable, &["cannot fetch", "after 100 of"]);
    assert_eq!(list(&folder.0), ["small.tar.gz.part"]);
    assert_eq!(server.requests().len(), 3);
    // Nobody listens on a port that was just given back.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(run(&known, &format!("http://{nobody}/"), &TestFolder::new("nobody").0), Kind::Unavailable, &hand);
}

#[test]
fn an_archive_put_there_by_hand_is_used_and_stays() {
    let (folder, packed) = (TestFolder::new("hand"), good_archive());
    let path = folder.0.join("small.tar.gz");
    fs::write(&path, &packed).unwrap();
    let nowhere = "http://127.0.0.1:9";
    run(&known(&packed), nowhere, &folder.0).unwrap();
    assert_eq!(list(&folder.0), ["small-binary", "small.tar.gz"]);
    fs::remove_dir_all(folder.0.join("small-binary")).unwrap();
    fs::write(&path, &packed[1..]).unwrap();
    refused(
        run(&known(&packed), nowhere, &folder.0),
        Kind::Data,
        &["small.tar.gz is not the original", "move it away"],
    );

    let lock = lock(&folder.0).unwrap();
    refused(run(&known(&packed), nowhere, &folder.0), Kind::CantCreate, &["another fetch is at work"]);
    drop(lock);
}

#[test]
fn only_named_files_of_the_right_length_leave_an_archive() {
    let (train, test) = (content("train.bin"), content("test.bin"));
    let file = |name: &str, content: &[u8]| entry(&format!("small-binary/{name}"), b'0', content);
    let good = || vec![file("train.bin", &train), file("test.bin", &test)];
    // The archive's entries, and the words of the message.
    type Entries = Vec<Vec<u8>>;
    let cases: &[(&str, Entries, Option<&str>)] = &[
        (
            "elsewhere",
            [vec![entry("../evil", b'0', b"x"), entry("/tmp/samcore-evil", b'0', b"x")], good()].concat(),
            None,
        ),
        ("dots within", [vec![entry("small-binary/../../evil", b'0', b"x")], good()].concat(), None),
        ("a link besides", [vec![entry("small-binary/link", b'2', b"")], good()].concat(), None),
        ("dot slash", vec![entry("./small-binary/train.bin", b'0', &train), file("test.bin", &test)], None),
        (
            "a link",
            vec![entry("small-binary/train.bin", b'2', b""), file("test.bin", &test)],
            Some("train.bin is a link"),
        ),
        ("missing", vec![file("train.bin", &train)], Some("hold no test.bin")),
        ("twice", [good(), vec![file("train.bin", &train)]].concat(), Some("train.bin is wrong: it is there twice")),
        ("too long", vec![file("train.bin", &[&train[..], b"x"].concat())], Some("longer than 80000 bytes")),
        ("too short", vec![file("train.bin", &train[1..])], Some("79999 bytes instead of 80000")),
        ("other bytes", vec![file("train.bin", &test)], Some("its SHA-256 is")),
        ("a bomb", vec![entry("bomb", b'0', &vec![0; 40 << 20])], Some("small.tar.gz")),
        ("no archive", vec![vec![7; 3000]], Some("small.tar.gz")),
    ];
    for (case, entries, says) in cases {
        let folder = TestFolder::new("evil");
        let out = folder.0.join("out");
        fs::create_dir(&out).unwrap();
        let packed = tar_gz(entries);
        fs::write(out.join("small.tar.gz"), &packed).unwrap();
        let result = run(&known(&packed), "http://127.0.0.1:9", &out);
        match says {
            None => {
                result.unwrap_or_else(|e| panic!("{case}: {e}"));
                fs::remove_file(out.join("small.tar.gz")).unwrap();
                complete(&out);
            }
            Some(says) => {
                refused(result, Kind::Data, &[says]);
                assert_eq!(list(&out), ["small.tar.gz"], "{case}");
            }
        }
        assert_eq!(list(&folder.0), ["out"], "{case}");
        assert!(!Path::new("/tmp/samcore-evil").exists());
    }
}

#[test]
fn a_set_of_packed_files_is_fetched_file_by_file() {
    let contents: Vec<Vec<u8>> = [(3, 0u8), (1, 1), (3, 2), (1, 3)].map(|(rank, value)| idx_file(rank, value)).to_vec();
    let names =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    let files = names.iter().zip(&contents).map(|(name, content)| KnownFile { name, id: identity_of(content) });
    let archive = |(name, content): (&&str, &Vec<u8>)| Archive {
        name: leak(format!("{name}.gz").into_boxed_str()),
        id: identity_of(&gzip(content)),
        packing: Packing::Gz,
    };
    let known = Known {
        format: Format::Idx,
        files: leak(files.collect::<Vec<_>>().into_boxed_slice()),
        archives: leak(names.iter().zip(&contents).map(archive).collect::<Vec<_>>().into_boxed_slice()),
        ..known(&[])
    };
    let folder = TestFolder::new("packed");
    let set = folder.0.join("small-binary");
    // Three are there: one packed in another way, one unpacked; the archive of the third was put there by hand.
    fs::create_dir(&set).unwrap();
    let mut stored = GzEncoder::new(Vec::new(), Compression::none());
    stored.write_all(&contents[0]).unwrap();
    fs::write(set.join(format!("{}.gz", names[0])), stored.finish().unwrap()).unwrap();
    fs::write(set.join(names[1]), &contents[1]).unwrap();
    fs::write(folder.0.join(format!("{}.gz", names[2])), gzip(&contents[2])).unwrap();
    let server = Server::new(gzip(&contents[3]), &[Manner::Whole]);
    run(&known, &server.url, &folder.0).unwrap();
    assert_eq!(server.requests(), ["/t10k-labels-idx1-ubyte.gz all"]);
    for i in [1, 2, 3] {
        assert!(fs::read(set.join(names[i])).unwrap() == contents[i]);
    }
    assert_eq!(run(&known, "http://127.0.0.1:9", &folder.0).unwrap(), Outcome::Complete(set));
}

#[test]
fn the_next_address_is_tried_where_one_fails() {
    let packed = good_archive();
    let mut other = packed.clone();
    other[5000] ^= 1;
    let bad = [
        Server::new(packed.clone(), &[Manner::Status("404 Not Found")]),
        Server::new(other, &[Manner::Whole]),
        Server::new(packed.clone(), &[Manner::Break(100), Manner::Break(0)]),
    ];
    let good = Server::new(packed.clone(), &[Manner::Whole]);
    let fetch_from = |servers: &[&Server], out: &Path| {
        let urls: Vec<&str> = servers.iter().map(|server| leak(server.url.clone().into_boxed_str())).collect();
        let known = Known { urls: leak(urls.into_boxed_slice()), ..known(&packed) };
        fetch(&Order { known: &known, url: None, out, patience: PATIENCE }, &mut |_| ())
    };
    let folder = TestFolder::new("mirrors");
    fetch_from(&[&bad[0], &bad[1], &good], &folder.0).unwrap();
    complete(&folder.0);
    assert_eq!(good.requests(), ["/small.tar.gz all"]);
    // Bytes that one server has sent before it broke off need not be sent again.
    let folder = TestFolder::new("mirrors");
    fetch_from(&[&bad[2], &good], &folder.0).unwrap();
    complete(&folder.0);
    assert_eq!(good.requests()[1], "/small.tar.gz bytes=100-");
    let folder = TestFolder::new("mirrors");
    let says =
        [&bad[0].url[..], "answered 404", &bad[1].url, "is not the original", "without a network, get small.tar.gz"];
    refused(fetch_from(&[&bad[0], &bad[1]], &folder.0), Kind::Unavailable, &says);
    assert!(list(&folder.0).is_empty());
}

/// Two images of 1x1, or their labels.
fn idx_file(rank: u8, value: u8) -> Vec<u8> {
    let dims = [2, 1, 1].iter().take(usize::from(rank)).flat_map(|d: &u32| d.to_be_bytes());
    [0, 0, 8, rank].into_iter().chain(dims).chain([value; 2]).collect()
}

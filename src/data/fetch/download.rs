//! Download of one file over HTTP, which can be continued after a break.

use crate::data::known::Archive;
use crate::error::{Error, Kind, Result};
use crate::files::sha256_stream;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

/// Time limits of a download.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Connections that may fail one after the other without a single new byte.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles from one to the next.
    pub pause: Duration,
    /// Limit for a connection, for the answer's head, and for each piece of its body.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { attempts: 4, pause: Duration::from_secs(1), timeout: Duration::from_secs(30) }
    }
}

/// Progress of a download.
pub struct Progress<'a> {
    /// The archive's name.
    pub name: &'a str,
    /// Bytes that are there, of `total`; `before` of them were there when this process began.
    pub done: u64,
    pub total: u64,
    pub before: u64,
}

/// Why a connection brought no more.
enum Break {
    /// A failure that another try may overcome.
    Passing(String),
    /// A failure that no other try overcomes: the answer is wrong or the disk is full.
    Final(Error),
}

/// Returns a file's length and SHA-256.
///
/// # Errors
/// It cannot be read.
pub fn identity(path: &Path) -> Result<(u64, String)> {
    let unreadable = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    Ok((len, sha256_stream(&mut file).map_err(unreadable)?))
}

/// Downloads `archive` from `url` to `part`, from whose end a broken download goes on.
///
/// # Errors
/// Unavailable: no connection, or an answer that is not the file. Data: the whole file came, but is not the original; it is
/// thrown away then. Io, CantCreate: it cannot be written.
pub fn download(
    archive: &Archive,
    url: &str,
    part: &Path,
    patience: Patience,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<()> {
    let unwritable = |e: std::io::Error| Error::io("write", part, &e);
    if fs::symlink_metadata(part).is_ok_and(|meta| !meta.is_file()) {
        let message = format!("{} is no regular file; remove it and fetch again", part.display());
        return Err(Error::new(Kind::CantCreate, message));
    }
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(part).map_err(unwritable)?;
    let total = archive.id.len;
    let mut before = file.metadata().map_err(unwritable)?.len();
    let agent = agent(url, patience.timeout);
    let (mut failures, mut pause) = (0, patience.pause);
    loop {
        let begun = file.metadata().map_err(unwritable)?.len();
        if begun == total {
            file.sync_all().map_err(unwritable)?;
            let (_, sha256) = identity(part)?;
            let Some(found) = archive.id.differs(total, &sha256) else { return Ok(()) };
            file.set_len(0).map_err(unwritable)?;
            if before == 0 {
                fs::remove_file(part).map_err(unwritable)?;
                let message = format!("{url} is not the original: {found}; it was thrown away");
                return Err(Error::data(message));
            }
            // The part of an earlier process may have been wrong; all of it is downloaded again, once.
            before = 0;
            continue;
        }
        let mut connected = Connection { agent: &agent, url, archive, file: &mut file, before };
        let ended = connected.receive(begun, tell);
        before = connected.before;
        let cause = match ended {
            Ok(()) => continue,
            Err(Break::Final(e)) => {
                // An empty part is no start.
                if file.metadata().is_ok_and(|meta| meta.len() == 0) {
                    let _ = fs::remove_file(part);
                }
                return Err(e);
            }
            Err(Break::Passing(cause)) => cause,
        };
        let now = file.metadata().map_err(unwritable)?.len();
        (failures, pause) = if now > begun { (1, patience.pause) } else { (failures + 1, pause) };
        if failures >= patience.attempts {
            if now == 0 {
                let _ = fs::remove_file(part);
            }
            return Err(Error::new(Kind::Unavailable, format!("cannot fetch {url}: {cause}")));
        }
        sleep(pause);
        pause *= 2;
    }
}

fn agent(url: &str, timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(5)
        .user_agent(concat!("samcore/", env!("CARGO_PKG_VERSION")))
        // The size that is compared is the packed one; no layer in between may unpack.
        .accept_encoding("identity")
        .timeout_resolve(Some(timeout))
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout));
    // A proxy cannot reach this machine's own addresses.
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|host| url.starts_with(host));
    let config = if local { config.proxy(None) } else { config };
    Agent::new_with_config(config.build())
}

/// One connection and the destination of its bytes.
struct Connection<'a> {
    agent: &'a Agent,
    url: &'a str,
    archive: &'a Archive,
    file: &'a mut File,
    /// Bytes of the file that an earlier process left.
    before: u64,
}

impl Connection<'_> {
    /// Appends to the `have` bytes that are there what the server sends; Ok at the end of the file.
    fn receive(&mut self, have: u64, tell: &mut dyn FnMut(&Progress<'_>)) -> std::result::Result<(), Break> {
        let total = self.archive.id.len;
        let mut request = self.agent.get(self.url);
        if have > 0 && have < total {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let answer = request.call().map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::TooManyRedirects | ureq::Error::InvalidProxyUrl => {
                Break::Final(self.unavailable(e.to_string()))
            }
            e => Break::Passing(e.to_string()),
        })?;
        let mut done = self.accept(&answer, have)?;
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let mut piece = vec![0; 1 << 16];
        let unwritable = |e: std::io::Error| Break::Final(Error::io("write the download of", self.url.as_ref(), &e));
        while done < total {
            let progress = Progress { name: self.archive.name, done, total, before: self.before };
            tell(&progress);
            let count = match body.read(&mut piece) {
                Ok(0) => return Err(Break::Passing(format!("it ended after {done} of {total} bytes"))),
                Ok(count) => count,
                Err(e) => return Err(Break::Passing(format!("{e} after {done} of {total} bytes"))),
            };
            // More than was announced is cut off here, and the SHA-256 judges what is left.
            let count = count.min(usize::try_from(total - done).unwrap_or(usize::MAX));
            self.file.write_all(&piece[..count]).map_err(unwritable)?;
            done += count as u64;
        }
        tell(&Progress { name: self.archive.name, done, total, before: self.before });
        Ok(())
    }

    /// Checks the head of the answer, and cuts the file to the byte at which the body continues.
    fn accept(&mut self, answer: &Response<Body>, have: u64) -> std::result::Result<u64, Break> {
        let total = self.archive.id.len;
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let (from, announced) = match answer.status() {
            StatusCode::OK => (0, text(header::CONTENT_LENGTH).and_then(|len| len.parse().ok())),
            StatusCode::PARTIAL_CONTENT => {
                // "bytes 100-199/200"
                let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
                let place = range.and_then(|range| range.split_once('-')).and_then(|(from, _)| from.parse().ok());
                if place != Some(have) {
                    self.restart()?;
                    return Err(Break::Passing(format!("it sent {range:?} instead of what follows byte {have}")));
                }
                (have, range.and_then(|range| range.rsplit_once('/')).and_then(|(_, all)| all.parse().ok()))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart()?;
                return Err(Break::Passing("it refuses to continue where the download ended".into()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Break::Passing(format!("the server answered {status}")));
            }
            status => return Err(Break::Final(self.unavailable(format!("the server answered {status}")))),
        };
        if let Some(announced) = announced.filter(|announced: &u64| *announced != total) {
            let what = format!("it has {announced} bytes there, the original has {total}");
            return Err(Break::Final(self.unavailable(what)));
        }
        if from < have {
            self.restart()?;
        }
        Ok(from)
    }

    fn unavailable(&self, what: String) -> Error {
        Error::new(Kind::Unavailable, format!("cannot fetch {}: {what}", self.url))
    }

    /// Empties the file.
    fn restart(&mut self) -> std::result::Result<(), Break> {
        self.before = 0;
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(|_| ()).map_err(|e| Break::Final(Error::io("write the download of", self.url.as_ref(), &e)))
    }
}

//! Answers of a server. A thread of its own reads them, so that waiting for a server that is
//! silent, or that sends a byte now and then, ends soon after Ctrl-C.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use ureq::RequestBuilder;
use ureq::http::{HeaderMap, StatusCode};
use ureq::typestate::WithoutBody;
use welore_burn::progress::Interrupted;

use crate::format;
use crate::terminal::interrupted;

/// How often to check for Ctrl-C while waiting.
pub const GLANCE: Duration = Duration::from_millis(50);

/// Most bytes in a piece of a body.
const PIECE: usize = 1 << 16;

/// How many pieces may wait to be used.
const AHEAD: usize = 4;

/// The slowest body that is waited for.
const PACE: Pace = Pace { bytes: 1 << 14, time: Duration::from_secs(60) };

/// At least this many bytes in this much time of waiting.
#[derive(Debug, Clone, Copy)]
struct Pace {
    bytes: u64,
    time: Duration,
}

/// The head of an answer. Its body arrives in pieces.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    news: Receiver<News>,
    pace: Pace,
    /// How long the current stretch of [`Pace`] was waited for, and what arrived in it.
    waited: Duration,
    arrived: u64,
    /// When all of the body has to be there.
    until: Option<Instant>,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Ctrl-C was pressed.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// No connection, or one that broke or is too slow.
    #[error("{0}")]
    Broken(String),
}

/// What the thread that reads has to tell.
enum News {
    Head(StatusCode, HeaderMap),
    Piece(Vec<u8>),
    End,
    Broken(String),
}

impl Reply {
    /// Sends a request and waits for the head of the answer. The body may take the time `most`,
    /// or any time if that is `None`; but it has to keep a pace.
    ///
    /// # Errors
    ///
    /// [`ReplyError`].
    pub fn to(
        request: RequestBuilder<WithoutBody>,
        most: Option<Duration>,
    ) -> Result<Self, ReplyError> {
        let (sender, news) = sync_channel(AHEAD);
        let started = Builder::new().spawn(move || converse(request, &sender));
        started.map_err(|error| ReplyError::Broken(error.to_string()))?;
        loop {
            match glance(&news)? {
                None => {}
                Some(News::Head(status, headers)) => {
                    return Ok(Self {
                        status,
                        headers,
                        news,
                        pace: PACE,
                        waited: Duration::ZERO,
                        arrived: 0,
                        until: most.map(|most| Instant::now() + most),
                    });
                }
                Some(News::Broken(reason)) => return Err(ReplyError::Broken(reason)),
                Some(News::Piece(_) | News::End) => return Err(broken()),
            }
        }
    }

    /// The next piece of the body; `None` once after the last one.
    ///
    /// # Errors
    ///
    /// [`ReplyError`].
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, ReplyError> {
        loop {
            self.check_pace()?;
            let asked = Instant::now();
            let news = glance(&self.news)?;
            self.waited += asked.elapsed();
            match news {
                None | Some(News::Head(..)) => {}
                Some(News::Piece(piece)) => {
                    self.arrived += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Some(News::End) => return Ok(None),
                Some(News::Broken(reason)) => return Err(ReplyError::Broken(reason)),
            }
        }
    }

    /// A server that sends a byte now and then is as good as a broken connection.
    fn check_pace(&mut self) -> Result<(), ReplyError> {
        if self.until.is_some_and(|until| Instant::now() > until) {
            return Err(ReplyError::Broken("the answer takes too long".into()));
        }
        if self.waited >= self.pace.time {
            if self.arrived < self.pace.bytes {
                let (bytes, time) = (format::bytes(self.arrived), self.pace.time.as_secs());
                let reason = format!("only {bytes} arrived in {time} seconds");
                return Err(ReplyError::Broken(reason));
            }
            (self.waited, self.arrived) = (Duration::ZERO, 0);
        }
        Ok(())
    }
}

/// What has happened; `None` after a moment in which nothing has.
fn glance(news: &Receiver<News>) -> Result<Option<News>, ReplyError> {
    if interrupted() {
        return Err(Interrupted.into());
    }
    match news.recv_timeout(GLANCE) {
        Ok(news) => Ok(Some(news)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(broken()),
    }
}

fn broken() -> ReplyError {
    ReplyError::Broken("the connection broke".into())
}

/// Sends a request and tells what comes back, for as long as someone listens.
fn converse(request: RequestBuilder<WithoutBody>, listener: &SyncSender<News>) {
    let tell = |news| listener.send(news).is_ok();
    let (head, body) = match request.call() {
        Ok(response) => response.into_parts(),
        Err(error) => {
            tell(News::Broken(error.to_string()));
            return;
        }
    };
    if !tell(News::Head(head.status, head.headers)) {
        return;
    }
    let mut body = body.into_reader();
    loop {
        let mut piece = vec![0; PIECE];
        let news = match body.read(&mut piece) {
            Ok(0) => News::End,
            Ok(read) => {
                piece.truncate(read);
                News::Piece(piece)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => News::Broken(error.to_string()),
        };
        let is_last = !matches!(news, News::Piece(_));
        if !tell(news) || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{sleep, spawn};

    use super::*;

    /// A body of which a byte arrives every few milliseconds, `count` times.
    fn dripping(count: usize, pace: Pace, until: Option<Instant>) -> Reply {
        let (sender, news) = sync_channel(AHEAD);
        spawn(move || {
            for _ in 0..count {
                sleep(Duration::from_millis(5));
                if sender.send(News::Piece(vec![b' '])).is_err() {
                    return;
                }
            }
            let _ = sender.send(News::End);
        });
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        Reply { status, headers, news, pace, waited: Duration::ZERO, arrived: 0, until }
    }

    fn read(mut reply: Reply) -> Result<usize, String> {
        let mut length = 0;
        while let Some(piece) = reply.piece().map_err(|error| error.to_string())? {
            length += piece.len();
        }
        Ok(length)
    }

    #[test]
    fn bodies_that_keep_the_pace_arrive() {
        assert_eq!(read(dripping(10, PACE, None)), Ok(10));
        let slow = Pace { bytes: 1, time: Duration::from_millis(300) };
        assert_eq!(read(dripping(100, slow, None)), Ok(100));
    }

    #[test]
    fn dripping_bodies_do_not_last_for_ever() {
        let pace = Pace { bytes: 1000, time: Duration::from_millis(60) };
        let reason = read(dripping(10_000, pace, None)).unwrap_err();
        assert!(reason.contains("arrived in"), "{reason}");
        let until = Some(Instant::now() + Duration::from_millis(60));
        let reason = read(dripping(10_000, PACE, until)).unwrap_err();
        assert!(reason.contains("too long"), "{reason}");
    }

    #[test]
    fn a_reader_that_ended_without_a_word_is_a_broken_connection() {
        let (sender, news) = sync_channel(AHEAD);
        drop(sender);
        let (status, headers, until) = (StatusCode::OK, HeaderMap::new(), None);
        let reply =
            Reply { status, headers, news, pace: PACE, waited: Duration::ZERO, arrived: 0, until };
        assert!(read(reply).is_err());
    }
}

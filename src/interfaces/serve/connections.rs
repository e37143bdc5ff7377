//! Connections, with limits on their number and on the time that clients may take.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::telemetry::Telemetry;

pub const MOST: usize = 2048;
/// Longest time for the head of a request, and for silence between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// Longest time in which a client reads nothing of an answer.
const TAKING: Duration = Duration::from_secs(20);
/// Age of a connection at which the current answer becomes the last one.
const AGE: Duration = Duration::from_secs(300);
/// Longest time for this last answer, so that a client that reads very slowly cannot keep its connection for ever.
const LAST: Duration = Duration::from_secs(60);
/// Longest time to read and ignore the rest of a request. Most clients read an answer only after sending everything.
const LINGERING: Duration = Duration::from_secs(20);
/// Most bytes of a request that are read and ignored.
const LET_GO: u64 = 64 << 20;
/// Pause after a connection could not be accepted, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request, in bytes.
const BUFFER: usize = 32 << 10;

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Serves connections until `ending` changes, then waits until all are closed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    telemetry: Arc<Telemetry>,
    mut ending: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut http = http1::Builder::new();
    // A client may close its side after the request and still wait for the answer.
    http.half_close(true).timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a connection failed: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            telemetry.refuse("connections");
            // A client that cannot receive this at once gets nothing.
            drop(stream.try_write(FULL));
            continue;
        };
        let (http, service) = (http.clone(), TowerToHyperService::new(router.clone()));
        let (telemetry, ending) = (telemetry.clone(), ending.clone());
        tokio::spawn(async move {
            telemetry.connections.inc();
            attend(http, Box::pin(timed(stream)), service, ending).await;
            telemetry.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    // All permits are free when all connections are closed.
    drop(room.acquire_many(MOST as u32).await);
}

type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

/// Serves a connection until the client leaves, the connection is too old, or `ending` changes.
async fn attend(
    http: http1::Builder,
    mut stream: Stream,
    service: TowerToHyperService<Router>,
    mut ending: watch::Receiver<bool>,
) {
    let ended = {
        let mut connection = pin!(http.serve_connection(TokioIo::new(&mut stream), service));
        let is_over = async {
            tokio::select! {
                _ = ending.changed() => {}
                () = sleep(AGE) => {}
            }
        };
        tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = is_over => {
                connection.as_mut().graceful_shutdown();
                timeout(LAST, connection).await.ok()
            }
        }
    };
    match ended {
        Some(Ok(())) if !*ending.borrow() => {
            drop(timeout(LINGERING, copy(&mut stream.take(LET_GO), &mut sink())).await);
        }
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!("a connection ended: {error}"),
        None => tracing::debug!("a connection was too slow"),
    }
}

fn timed(stream: TcpStream) -> TimeoutStream<TcpStream> {
    // Answers are written in large pieces, so there is no reason to wait for more data.
    drop(stream.set_nodelay(true));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKING));
    stream
}

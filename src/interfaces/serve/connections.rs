//! Connections: how many there may be, and how long one may take to say or to take something.

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
/// For the head of a request, and for saying nothing between two.
const HEAD: Duration = Duration::from_secs(10);
/// For taking something of an answer.
const TAKING: Duration = Duration::from_secs(20);
/// After so long, the answer under way is the last …
const AGE: Duration = Duration::from_secs(300);
/// … and has so long: whoever takes a byte now and then does not hold a place for ever.
const LAST: Duration = Duration::from_secs(60);
/// Most clients hear an answer only once they have sent all: what is too much is let go by, for so long …
const LINGERING: Duration = Duration::from_secs(20);
/// … and up to so many bytes.
const LET_GO: u64 = 64 << 20;
/// Before the next try, where there is no file left for a connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Of a head, in bytes.
const BUFFER: usize = 32 << 10;

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Until `ending` says so; then those under way are waited for.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    telemetry: Arc<Telemetry>,
    mut ending: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut http = http1::Builder::new();
    // A client may close its side once it has asked, and still waits for the answer.
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
            // Whoever does not take it at once gets nothing.
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
    // All places are free once all connections are closed.
    drop(room.acquire_many(MOST as u32).await);
}

type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

/// Until the client goes, the connection is too old, or the server is `ending`.
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
    // Answers are whole pieces: nothing is won by waiting for more.
    drop(stream.set_nodelay(true));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKING));
    stream
}

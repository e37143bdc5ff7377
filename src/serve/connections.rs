//! Connections: how many there may be, and how long one may take to say or to take something.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::telemetry::Telemetry;

pub const MOST: usize = 2048;
/// For the head of a request, and for saying nothing between two.
const HEAD: Duration = Duration::from_secs(10);
/// For taking something of an answer.
const TAKING: Duration = Duration::from_secs(20);
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
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a connection failed: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            telemetry.refuse("connections");
            // Whoever does not take it at once gets nothing.
            drop(stream.try_write(FULL));
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Box::pin(timed(stream))), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        let telemetry = telemetry.clone();
        tokio::spawn(async move {
            telemetry.connections.inc();
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            telemetry.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn timed(stream: TcpStream) -> TimeoutStream<TcpStream> {
    // Answers are whole pieces: nothing is won by waiting for more.
    drop(stream.set_nodelay(true));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKING));
    stream
}

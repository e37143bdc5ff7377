//! Downloads from a server that closes connections early.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::fixture::{Project, archive, sound};

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Answer {
    /// This number of bytes of the body, then silence and a closed connection.
    Part(usize),
    /// Everything that was requested. `ranges` says whether the server honours `Range`.
    Whole {
        ranges: bool,
    },
    Status(u16),
}

/// Serves `body` on a free port, with one answer for each request. Returns the address, and the `Range` headers seen.
fn serve(body: Vec<u8>, answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<Option<usize>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/a.tar.gz", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let header: Vec<String> =
                lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let range =
                header.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
            log.lock().unwrap().push(range);
            let send = |stream: &mut std::net::TcpStream, status: &str, extra: &str, length: usize, bytes: &[u8]| {
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n");
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(bytes)).unwrap();
            };
            // A 206 response need not repeat the date (RFC 9110, section 15.3.7).
            let dated = "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
            match (answer, range) {
                (Answer::Status(status), _) => send(&mut stream, &format!("{status} No"), "", 0, &[]),
                (Answer::Part(count), _) => send(&mut stream, "200 OK", dated, body.len(), &body[..count]),
                (Answer::Whole { ranges: true }, Some(start)) => {
                    let range = format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
                    send(&mut stream, "206 Partial Content", &range, body.len() - start, &body[start..]);
                }
                (Answer::Whole { .. }, _) => send(&mut stream, "200 OK", dated, body.len(), &body),
            }
        }
    });
    (address, seen)
}

fn fetched(answers: Vec<Answer>) -> (Project, crate::fixture::Outcome, Vec<Option<usize>>) {
    let (address, seen) = serve(archive(&sound()), answers);
    let project = Project::new();
    let outcome = project.similiai(&format!("run fetch --set fetch.source={address} --set fetch.retries=2"));
    let seen = seen.lock().unwrap().clone();
    (project, outcome, seen)
}

fn batch_is_whole(project: &Project) -> bool {
    std::fs::read(project.path("artifacts/fetch/data_batch_1.bin")).unwrap() == sound()[1].bytes
}

#[test]
fn goes_on_where_the_server_allows_it() {
    let (project, outcome, seen) = fetched(vec![Answer::Part(5000), Answer::Whole { ranges: true }]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(batch_is_whole(&project));
    assert_eq!(seen, [None, Some(5000)]);
}

#[test]
fn starts_again_where_it_does_not() {
    let (project, outcome, seen) =
        fetched(vec![Answer::Status(503), Answer::Part(5000), Answer::Whole { ranges: false }]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(batch_is_whole(&project));
    assert_eq!(seen.len(), 3);
}

#[test]
fn gives_up_with_a_reason() {
    let (project, outcome, _) = fetched(vec![Answer::Status(404)]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.stderr.contains("404") && outcome.stderr.contains("a.tar.gz"), "{}", outcome.stderr);
    assert!(!project.path("artifacts/fetch").exists());
    let (_, outcome, seen) = fetched(vec![Answer::Part(10), Answer::Status(500), Answer::Status(500)]);
    assert_eq!((outcome.status, seen.len()), (1, 3), "{}", outcome.stderr);
    // A download that fails in the middle of a member is a network error. It is not tried again if the error is
    // permanent.
    let (_, outcome, seen) = fetched(vec![Answer::Part(5000), Answer::Status(404)]);
    assert_eq!((outcome.status, seen.len()), (1, 2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("cannot download") && outcome.stderr.contains("404"), "{}", outcome.stderr);
}

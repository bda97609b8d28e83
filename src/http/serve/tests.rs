//! Peers that say nothing, half a word, or never end: on a real socket, with less patience than in earnest.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Part;
use crate::store::testing::each_database;

/// What is awaited happens within this time, or the test has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// A listener on a free port with the whole URL table.
async fn listening(db: &crate::store::Db, patience: Patience) -> (SocketAddr, CancellationToken) {
    let app = App::for_tests(db, &Clock::moved(1_800_000_000_000, 1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let bound = Bound { listener, tls: None, router: crate::http::router(app, &Part::all()), patience };
    tokio::spawn(serve(bound, stop.clone()));
    (address, stop)
}

fn brief(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Says `words` and listens until the server hangs up.
async fn say(address: SocketAddr, words: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(words.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    // A reset after the answer is a way of hanging up.
    tokio::time::timeout(DEADLINE, socket.read_to_end(&mut heard)).await.expect("the server never hung up").ok();
    String::from_utf8_lossy(&heard).into_owned()
}

const HEAD: &str = "POST /agent/v1/activate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

#[tokio::test]
async fn a_peer_that_never_finishes_its_head_is_cut_off_whatever_it_has_said() {
    each_database(async |db| {
        let (address, stop) = listening(&db, Patience { header: brief(200), ..Patience::default() }).await;
        for words in
            ["", "P", "PRI * HTTP/2.0\r\n", "POST / HT", "GET /healthz HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let heard = say(address, words).await;
            assert!(!heard.starts_with("HTTP/1.1 200"), "{words:?} was answered {heard:?}");
        }
        // One that is kept alive and has spoken is not cut off in the middle of its next word by the first limit.
        assert!(say(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn a_body_that_never_ends_or_drips_is_answered_408_and_a_truncated_one_400() {
    each_database(async |db| {
        let (address, stop) = listening(&db, Patience { body: brief(300), ..Patience::default() }).await;
        for words in [format!("{HEAD}content-length: 100\r\n\r\n{{"), format!("{HEAD}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n")] {
            let heard = say(address, &words).await;
            assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("body_too_slow"), "{heard}");
        }
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("{HEAD}content-length: 1000\r\n\r\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() {
                tokio::time::sleep(brief(20)).await;
            }
        });
        let mut heard = vec![0; 12];
        tokio::time::timeout(DEADLINE, read.read_exact(&mut heard)).await.expect("a dripping body was read for ever").unwrap();
        assert_eq!(heard, b"HTTP/1.1 408", "each byte in time is no excuse for a body that takes too long");
        drip.abort();
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("{HEAD}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut heard = String::new();
        tokio::time::timeout(DEADLINE, socket.read_to_string(&mut heard)).await.expect("a truncated body was waited for").unwrap();
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 400"), "{heard}");
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_with_413_and_its_limit_on_every_way_in() {
    each_database(async |db| {
        let (address, stop) = listening(&db, Patience::default()).await;
        for path in ["/agent/v1/activate", "/mdm/checkin"] {
            let socket = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = socket.into_split();
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            let endless = tokio::spawn(async move {
                let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
                let mut written = 0_usize;
                while write.write_all(chunk.as_bytes()).await.is_ok() {
                    written += chunk.len();
                }
                written
            });
            let mut heard = Vec::new();
            // A reset after the answer is a way of hanging up on somebody who goes on talking.
            tokio::time::timeout(DEADLINE, read.read_to_end(&mut heard)).await.expect("an endless body was read for ever").ok();
            let heard = String::from_utf8_lossy(&heard);
            assert!(heard.starts_with("HTTP/1.1 413") && heard.contains("at most"), "{path}: {heard}");
            let written = tokio::time::timeout(DEADLINE, endless).await.expect("the peer was never cut off").unwrap();
            assert!(written < 64 * 1024 * 1024, "{path}: {written} bytes were taken");
        }
        let fine = say(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn who_writes_a_body_that_is_too_large_before_reading_hears_so_and_goes_on() {
    each_database(async |db| {
        let (address, stop) = listening(&db, Patience::default()).await;
        // Less than the sum of what is read and what is read on, and more than the buffers between the two hold.
        let body = " ".repeat(4_000_000);
        let chunked = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for rest in [format!("content-length: {}\r\n\r\n{body}", body.len()), chunked] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            tokio::time::timeout(DEADLINE, socket.write_all(format!("{HEAD}{rest}").as_bytes())).await.expect("it is not read").unwrap();
            socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut heard = String::new();
            tokio::time::timeout(DEADLINE, socket.read_to_string(&mut heard)).await.expect("the server never hung up").unwrap();
            assert!(heard.starts_with("HTTP/1.1 413") && heard.contains("body_too_large"), "{heard}");
            assert!(heard.contains("HTTP/1.1 200 OK"), "{heard}");
        }
        // One that asks first need not send it.
        let heard = say(address, &format!("{HEAD}content-length: 4000000\r\nexpect: 100-continue\r\n\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 413"), "{heard}");
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn silent_connections_fill_the_places_only_until_their_time_is_over() {
    each_database(async |db| {
        let (address, stop) = listening(&db, Patience { connections_max: 4, header: brief(400), ..Patience::default() }).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut heard = vec![0; 15];
        let waits = tokio::time::timeout(brief(100), socket.read_exact(&mut heard)).await;
        assert!(waits.is_err(), "a fifth connection was served while four places are taken");
        tokio::time::timeout(DEADLINE, socket.read_exact(&mut heard)).await.expect("the fifth never got a place").unwrap();
        assert_eq!(heard, b"HTTP/1.1 200 OK");
        stop.cancel();
    })
    .await;
}

//! Load of each kind, without a pause, and a count of what succeeded; the first failure of each is kept.
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_tests::{nginx, wait::until};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::Frame,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use super::service::Service;

/// Pieces of a long transfer.
pub(super) const LONG: usize = 24;
/// Bytes of each.
pub(super) const PIECE: usize = 48 * 1024;
/// Between two pieces.
pub(super) const PACE: Duration = Duration::from_millis(40);

/// Where the faces are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) web: SocketAddr,
    pub(super) service: SocketAddr,
    pub(super) h2: SocketAddr,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kept,
    Fresh,
    Download,
    Upload,
    Stream,
}

const KINDS: [Kind; 5] = [Kind::Kept, Kind::Fresh, Kind::Download, Kind::Upload, Kind::Stream];

/// Tasks of each kind.
const SIDE_BY_SIDE: usize = 2;

/// What is told about the load.
#[derive(Debug)]
struct Told {
    began: Instant,
    stop: AtomicBool,
    done: [AtomicU64; KINDS.len()],
    failures: Mutex<Vec<String>>,
}

/// Load that runs until it is finished.
#[derive(Debug)]
pub(super) struct Load {
    told: Arc<Told>,
    tasks: JoinSet<()>,
    _service: Service,
}

type Outcome = Result<(), Failed>;

/// What went wrong for a client.
#[derive(Debug)]
struct Failed(String);

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(format!("{error:?}"))
    }
}

impl Load {
    pub(super) fn start(places: Places, service: Service) -> Self {
        let told = Arc::new(Told {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            done: Default::default(),
            failures: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (kind, _) in KINDS.iter().flat_map(|kind| (0..SIDE_BY_SIDE).map(move |number| (*kind, number))) {
            tasks.spawn(run(kind, places, Arc::clone(&told)));
        }
        Self { told, tasks, _service: service }
    }

    /// Every kind has succeeded again since now, and nothing failed.
    pub(super) async fn goes_on(&self, after: &str) {
        let before = self.told.counts();
        until(format_args!("load of every kind after {after}; before: {before:?}"), async || {
            self.told.check(after);
            // Two more of each, so that one of them began after this.
            let enough =
                self.told.counts().iter().zip(before).all(|(now, before)| *now >= before + 2 * SIDE_BY_SIDE as u64);
            enough.then_some(())
        })
        .await;
    }

    /// Ends it. Nothing has failed.
    pub(super) async fn finish(mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.told.check("everything");
    }
}

impl Told {
    fn counts(&self) -> [u64; KINDS.len()] {
        std::array::from_fn(|index| self.done[index].load(Ordering::Relaxed))
    }

    fn check(&self, when: &str) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failures.is_empty(), "when {when}, of {:?}: {failures:#?}", self.counts());
    }
}

async fn run(kind: Kind, places: Places, told: Arc<Told>) {
    let mut kept = None;
    while !told.stop.load(Ordering::Relaxed) {
        let outcome = match kind {
            Kind::Kept => small(places.web, &mut kept).await,
            Kind::Fresh => small(places.web, &mut None).await,
            Kind::Download => download(places.service).await,
            Kind::Upload => upload(places.service).await,
            Kind::Stream => stream(places.h2).await,
        };
        match outcome {
            Ok(()) => {
                told.done[kind as usize].fetch_add(1, Ordering::Relaxed);
            }
            Err(Failed(why)) => {
                let at = told.began.elapsed();
                told.failures
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("{kind:?} after {at:?}: {why}"));
                return;
            }
        }
    }
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A connection, with the task that drives it.
struct Client {
    send: SendRequest<Body>,
    _driver: JoinSet<()>,
}

async fn connect(place: SocketAddr) -> Result<Client, Failed> {
    let stream = TcpStream::connect(place).await?;
    stream.set_nodelay(true)?;
    let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends is seen by whoever asks.
    Ok(Client { send, _driver: driven(async { drop(connection.await) }) })
}

fn driven(connection: impl Future<Output = ()> + Send + 'static) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    tasks
}

fn request(place: SocketAddr, method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).header(header::HOST, place.to_string()).body(body).unwrap()
}

/// A small request, on the connection that is there or on a new one. A client may find that a kept connection was closed
/// before its request got there, as every HTTP client must (RFC 9112, section 9.3.1); then it connects again.
async fn small(place: SocketAddr, kept: &mut Option<Client>) -> Outcome {
    let reused = match kept.take() {
        Some(mut client) => client.send.ready().await.is_ok().then_some(client),
        None => None,
    };
    let mut client = match reused {
        Some(client) => client,
        None => connect(place).await?,
    };
    let response = client.send.send_request(request(place, "GET", "/", Empty::new().boxed())).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != 200 || body != nginx::HELLO.as_bytes() {
        return Err(Failed(format!("{status} {body:?}")));
    }
    *kept = Some(client);
    Ok(())
}

async fn download(place: SocketAddr) -> Outcome {
    let mut client = connect(place).await?;
    let response = client.send.send_request(request(place, "GET", "/download", Empty::new().boxed())).await?;
    let status = response.status();
    let length = response.into_body().collect().await?.to_bytes().len();
    let right = status == 200 && length == LONG * PIECE;
    right.then_some(()).ok_or_else(|| Failed(format!("{status} with {length} bytes")))
}

async fn upload(place: SocketAddr) -> Outcome {
    let mut client = connect(place).await?;
    let pieces = futures_util::stream::unfold(0, |count| async move {
        if count == LONG {
            return None;
        }
        tokio::time::sleep(PACE).await;
        Some((Ok(Frame::data(Bytes::from(vec![7; PIECE]))), count + 1))
    });
    let response =
        client.send.send_request(request(place, "POST", "/upload", BodyExt::boxed(StreamBody::new(pieces)))).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let right = status == 200 && body == (LONG * PIECE).to_string().as_bytes();
    right.then_some(()).ok_or_else(|| Failed(format!("{status} {body:?}")))
}

/// A stream of messages and their echoes, as a gRPC call has them.
async fn stream(place: SocketAddr) -> Outcome {
    let tcp = TcpStream::connect(place).await?;
    let (client, connection) = h2::client::handshake(tcp).await?;
    let _driver = driven(async { drop(connection.await) });
    let mut client = client.ready().await?;
    let (response, mut sender) =
        client.send_request(Request::post("http://service.test/echo").body(()).unwrap(), false)?;
    let mut body = response.await?.into_body();
    for count in 0..LONG {
        let message = Bytes::from(format!("message {count}"));
        sender.send_data(message.clone(), false)?;
        let mut back = Vec::new();
        while back.len() < message.len() {
            let data = body.data().await.ok_or_else(|| Failed("the stream ended early".to_owned()))??;
            body.flow_control().release_capacity(data.len())?;
            back.extend_from_slice(&data);
        }
        if back != message {
            return Err(Failed(format!("echoed {back:?}")));
        }
        tokio::time::sleep(PACE).await;
    }
    sender.send_data(Bytes::new(), true)?;
    while let Some(more) = body.data().await {
        let more = more?;
        if !more.is_empty() {
            return Err(Failed(format!("more than was sent: {more:?}")));
        }
    }
    Ok(())
}

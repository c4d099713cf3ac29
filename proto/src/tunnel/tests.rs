//! Both ends against each other over an in-memory pipe, against plain HTTP/2 peers, and against generated gRPC code.

mod budget;
mod cancel;
mod credit;
mod drain;
mod forward;
mod hostile;
mod interop;
mod liveness;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    io::DuplexStream,
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    client::{self, Client, ConnectionError},
    failure::Failure,
    pb,
    receive::{Direction, Part, Receiver},
    server::{self, Call, Forward},
    settings::Settings,
};

/// A tunnel in memory. Its drivers are owned by `tasks`.
struct Pair {
    client: Client,
    calls: mpsc::Receiver<Call>,
    drain: Arc<Notify>,
    tasks: JoinSet<(&'static str, Result<(), ConnectionError>)>,
}

impl Pair {
    async fn new() -> Self {
        Self::with(Settings::default(), Settings::default()).await
    }

    async fn with(client: Settings, server: Settings) -> Self {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let mut tasks = JoinSet::new();
        let (calls, drain) = serve(&mut tasks, far, server);
        let (client, driver) = client::connect(near, client).await.unwrap();
        tasks.spawn(async { ("client", driver.await) });
        Self { client, calls, drain, tasks }
    }

    /// A `Forward` call as both ends see it.
    async fn forward(&mut self) -> (client::Sender, Receiver<pb::ForwardResponse>, Forward) {
        let (sender, receiver) = self.client.forward(HeaderMap::new(), open()).await.unwrap();
        (sender, receiver, self.accept().await)
    }

    /// The next `Forward` call that arrives, its `open` read.
    async fn accept(&mut self) -> Forward {
        let Some(Call::Forward(mut forward)) = self.calls.recv().await else { panic!("no Forward call") };
        let first = message(&mut forward.receiver).await;
        assert_eq!(first, pb::ForwardRequest { part: Some(pb::forward_request::Part::Open(open())) });
        forward
    }

    /// Lets both drivers end and says how they did, the client's first.
    async fn end(self) -> [Result<(), ConnectionError>; 2] {
        let Self { client, mut tasks, .. } = self;
        drop(client);
        let mut ends = [tasks.join_next().await.unwrap().unwrap(), tasks.join_next().await.unwrap().unwrap()];
        ends.sort_by_key(|(who, _)| *who);
        ends.map(|(_, end)| end)
    }
}

fn serve(
    tasks: &mut JoinSet<(&'static str, Result<(), ConnectionError>)>,
    io: DuplexStream,
    settings: Settings,
) -> (mpsc::Receiver<Call>, Arc<Notify>) {
    let (arrived, calls) = mpsc::channel(2048);
    let drain = Arc::new(Notify::new());
    let draining = drain.clone();
    tasks.spawn(async move {
        let end = async {
            let mut server = server::accept(io, settings).await?;
            loop {
                tokio::select! {
                    call = server.next() => match call {
                        Some(call) => drop(arrived.send(call?).await),
                        None => return Ok(()),
                    },
                    () = draining.notified() => server.drain(),
                }
            }
        };
        ("server", end.await)
    });
    (calls, drain)
}

fn open() -> pb::Open {
    let target = pb::TcpTarget { host: "db.prod.svc".to_owned(), port: 5432 };
    pb::Open { target: Some(pb::open::Target::Tcp(target)), hops: 0 }
}

fn connected() -> pb::ForwardResponse {
    let connected = pb::Connected { address: "10.0.0.7:5432".to_owned() };
    pb::ForwardResponse { part: Some(pb::forward_response::Part::Connected(connected)) }
}

fn bearer(token: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, http::HeaderValue::from_static(token))])
}

async fn message<M: Direction>(receiver: &mut Receiver<M>) -> M {
    match receiver.next().await {
        Some(Ok(Part::Message(message))) => message,
        other => panic!("expected a message, got {other:?}"),
    }
}

/// Takes `len` bytes of data.
async fn data<M: Direction>(receiver: &mut Receiver<M>, len: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < len {
        match receiver.next().await {
            Some(Ok(Part::Data(bytes))) => {
                receiver.taken(bytes.len());
                read.extend(bytes);
            }
            other => panic!("expected data, got {other:?}"),
        }
    }
    read
}

async fn failure<M: Direction>(receiver: &mut Receiver<M>) -> Failure {
    loop {
        match receiver.next().await {
            Some(Ok(_)) => {}
            Some(Err(failure)) => return failure,
            None => panic!("ended well"),
        }
    }
}

fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

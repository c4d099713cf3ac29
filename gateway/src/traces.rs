//! Spans on their way to a collector: taken from the queue in batches, sent by OTLP over HTTP, tried again a few times
//! while the collector cannot take them, then dropped and counted. Streams never wait for any of it.

use std::{path::Path, time::Duration};

use daemon::{
    process::Context,
    shutdown::Shutdown,
    traces::{Config, Parent, Queue, Span, Tracer, encode, tracer},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use identity::http_client::{HttpClient, HttpError, Limits};
use proto::retry::{Climb, Ladder, Policy};
use url::Url;

/// Spans in one request: some hundred KiB, far below what collectors take.
const BATCH_MAX: usize = 512;
/// How long a batch that is not full waits for more: a reader of traces does not notice it.
const LINGER: Duration = Duration::from_millis(200);
/// One request. A collector's answer is small.
const LIMITS: Limits = Limits { deadline: Duration::from_secs(10), body: 64 * 1024 };
/// The last request, when the process ends.
const LAST_DEADLINE: Duration = Duration::from_secs(1);
/// Attempts at one batch. Meanwhile the queue fills, and what does not fit is dropped.
const ATTEMPTS_MAX: u32 = 4;
/// Between them.
const AGAIN: Policy = Policy {
    climb: Climb::Exponential { first: Duration::from_secs(1), factor: 3.0, cap: Duration::from_secs(15) },
    hint_max: Duration::from_secs(60),
    healthy: Duration::from_secs(60),
};

/// Where collectors take spans (OTLP/HTTP).
const PATH: &str = "v1/traces";

/// Starts the exporter, if one is configured. `service` is the program's name in traces.
///
/// # Errors
/// When the CA cannot be read.
pub fn start(
    config: Option<&Config>,
    service: &'static str,
    base: &Path,
    context: &Context,
) -> Result<Tracer, HttpError> {
    let Some(config) = config else { return Ok(Tracer::default()) };
    let wrong = |message| HttpError::Url { url: config.otlp.clone(), message };
    let address = format!("{}/{PATH}", config.otlp.trim_end_matches('/'));
    let url = Url::parse(&address).map_err(|_| wrong("is not a URL"))?;
    let client = HttpClient::for_endpoint(&url, config.ca.as_deref(), base)?;
    let (tracer, queue) = tracer(config, &context.metrics);
    tracing::info!(collector = %config.otlp, sample = config.sample, "spans are exported");
    let exporter = Exporter { client, url, service, instance: instance(), failing: false };
    context.shutdown.spawn_last(exporter.run(queue, context.shutdown.clone()));
    Ok(tracer)
}

/// Tells this process's spans apart from those of its replicas.
fn instance() -> String {
    let mut bytes = [0_u8; 8];
    // Without randomness replicas look like one.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

struct Exporter {
    client: HttpClient,
    url: Url,
    service: &'static str,
    instance: String,
    /// The last batch was not taken, and that was said.
    failing: bool,
}

/// Why a collector did not take a batch.
enum Refused {
    /// It may take it later.
    Later(String, Option<Duration>),
    /// It never will.
    Never(String),
}

impl Exporter {
    async fn run(mut self, mut queue: Queue, shutdown: Shutdown) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                () = shutdown.over() => break,
                count = queue.take(&mut batch, BATCH_MAX) => if count == 0 { break },
            }
            if batch.len() < BATCH_MAX {
                tokio::select! {
                    biased;
                    () = shutdown.over() => break,
                    () = tokio::time::sleep(LINGER) => {}
                }
                queue.take_now(&mut batch, BATCH_MAX);
            }
            tokio::select! {
                biased;
                () = shutdown.over() => break,
                taken = self.send(&batch) => count(&queue, &batch, taken),
            }
            batch.clear();
        }
        // What was on its way may arrive twice; a collector knows a span by its id.
        queue.take_now(&mut batch, BATCH_MAX);
        if !batch.is_empty() {
            let taken = tokio::time::timeout(LAST_DEADLINE, self.post(&batch)).await;
            count(&queue, &batch, matches!(taken, Ok(Ok(()))));
        }
    }

    /// Sends a batch, with patience; says whether it was taken.
    async fn send(&mut self, batch: &[Span]) -> bool {
        let mut ladder = Ladder::new(AGAIN);
        for attempt in 1..=ATTEMPTS_MAX {
            let (said, wait) = match self.post(batch).await {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return true;
                }
                Err(Refused::Later(said, hint)) => (said, Some(ladder.next_wait(hint))),
                Err(Refused::Never(said)) => (said, None),
            };
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(reason = said, "the collector does not take spans");
            }
            match wait {
                Some(wait) if attempt < ATTEMPTS_MAX => tokio::time::sleep(wait).await,
                _ => break,
            }
        }
        false
    }

    async fn post(&self, batch: &[Span]) -> Result<(), Refused> {
        let body = encode(self.service, &self.instance, batch);
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = self.client.send(Method::POST, &self.url, fields, body.into(), LIMITS).await;
        let answer = answer.map_err(|error| Refused::Later(error.to_string(), None))?;
        let said = || format!("{} answered {}", self.url.host_str().unwrap_or_default(), answer.status.as_u16());
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let after = answer.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
                Err(Refused::Later(said(), after.map(Duration::from_secs)))
            }
            _ => Err(Refused::Never(said())),
        }
    }
}

fn count(queue: &Queue, batch: &[Span], taken: bool) {
    let counter = if taken { &queue.exported } else { &queue.lost };
    counter.inc_by(batch.len() as u64);
}

/// The span that these fields say the caller is in.
pub fn parent(fields: &HeaderMap) -> Option<Parent> {
    let mut parents = fields.get_all("traceparent").iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let states = fields.get_all("tracestate").iter().filter_map(|state| state.to_str().ok());
    Parent::read(parent.to_str().ok()?, &states.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use daemon::traces::Told;
    use http::{Request, Response};
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;

    use super::*;

    /// What a collector with this answer was asked, and the exporter's metrics.
    async fn exported(status: u16, spans: usize) -> (Vec<String>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&asked);
        let mut collector = tokio::task::JoinSet::new();
        collector.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| {
                    sink.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
                    let answer = Response::builder().status(status).body(String::new());
                    std::future::ready(answer)
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        });
        let context = Context::new("test");
        let config: Config = serde_saphyr::from_str(&format!("{{ otlp: \"http://{address}\" }}")).unwrap();
        let tracer = start(Some(&config), "test", Path::new(""), &context).unwrap();
        for _ in 0..spans {
            tracer.begin(None, context.clock.now()).unwrap().end(Duration::ZERO, Told::default());
        }
        context.shutdown.run(Duration::ZERO).await;
        let asked = asked.lock().unwrap().clone();
        (asked, context.metrics.encode())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waits_is_sent_at_the_end() {
        let (asked, metrics) = exported(200, 3).await;
        assert_eq!(asked, ["POST /v1/traces"]);
        assert!(metrics.contains("test_spans_exported_total 3\n"), "{metrics}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_no_collector_takes_is_dropped_and_counted() {
        let (asked, metrics) = exported(400, 2).await;
        assert_eq!(asked.len(), 1);
        assert!(metrics.contains("test_spans_dropped_total{reason=\"collector\"} 2\n"), "{metrics}");
    }

    #[test]
    fn a_caller_that_contradicts_itself_is_in_no_span() {
        let good = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let mut fields = HeaderMap::new();
        fields.append("traceparent", good.clone());
        assert!(parent(&fields).is_some());
        fields.append("traceparent", good);
        assert!(parent(&fields).is_none());
    }
}

//! The demonstration: a token through the sidecar, then one HTTP request and checksummed bytes through each topology.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use identity::secret::Secret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    hops::Hops,
    say,
    stage::{AUDIENCE, CLUSTER, Folder, SCORER, Stage, Way},
};

/// Patience for one small request, tunnels coming up included.
const REQUEST_PATIENCE: Duration = Duration::from_secs(20);
/// Patience for a component to write the line that ends a stream.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// Without a byte for this long, the bulk transfer has failed.
const BULK_PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer read from a face or the sidecar.
const ANSWER_MAX: usize = 64 * 1024;
/// Fields of an access line that are shown.
const SHOWN: [&str; 9] = ["stream", "tunnel", "way", "subject", "actor", "rule", "status", "total_ms", "ended"];
/// Size of one written piece of the bulk transfer.
const PIECE: usize = 256 * 1024;

/// Runs all of it; the first failure ends it.
pub(crate) async fn run(stage: &Stage, hops: &Hops, mebibytes: u32) -> anyhow::Result<()> {
    say::title("A token for the workload, through the sidecar");
    let token = token(stage).await.context("getting a token through the sidecar")?;

    for way in &stage.ways {
        say::title(&format!("Topology: {}", way.name));
        say::line(&format!("  {}", way.hops));
        request(stage, hops, way, &token).await.with_context(|| format!("an HTTP request ({})", way.name))?;
        refusal(way, &token).await.with_context(|| format!("a request that must be refused ({})", way.name))?;
        bulk(way, mebibytes).await.with_context(|| format!("{mebibytes} MiB through the TCP face ({})", way.name))?;
    }
    Ok(())
}

/// What a person can paste while everything keeps running.
pub(crate) fn invite(stage: &Stage, folder: &Folder) {
    let path = folder.path();
    say::title("It keeps running; paste these, end with Ctrl-C");
    say::line("# a token from the sidecar, as an unmodified Azure SDK asks for it");
    say::line(&format!(
        "curl -s -H \"X-IDENTITY-HEADER: $(cat {header})\" \\\n  'http://{}/msi/token?api-version=2019-08-01&resource={AUDIENCE}' \\\n  \
         | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/' > {token}",
        stage.sidecar,
        header = path.join("identity.header").display(),
        token = path.join("caller.jwt").display(),
    ));
    for way in &stage.ways {
        say::line(&format!("# {}: {}", way.name, way.hops));
        say::line(&format!(
            "curl -i -H \"Authorization: Bearer $(cat {})\" http://{}/v1/health",
            path.join("caller.jwt").display(),
            way.http
        ));
        say::line(&format!(
            "cargo run -q --release -p gateway -- call -c {} --token-file {} {CLUSTER} http://{SCORER}:{}/v1/health",
            way.config.display(),
            path.join("caller.jwt").display(),
            stage.scorer.port(),
        ));
    }
    say::line(&format!("# what every component logged\nless {}", path.join("causeway.log").display()));
}

async fn token(stage: &Stage) -> anyhow::Result<Secret> {
    let began = Instant::now();
    let mut header = HeaderValue::from_str(stage.identity_header.expose())?;
    header.set_sensitive(true);
    let request = Request::get(format!("/msi/token?api-version=2019-08-01&resource={AUDIENCE}"))
        .header(header::HOST, stage.sidecar.to_string())
        .header("X-IDENTITY-HEADER", header)
        .body(Empty::new())?;
    let (status, body) = send(stage.sidecar, request).await?;
    let answer: serde_json::Value = serde_json::from_slice(&body).context("the sidecar's answer is not JSON")?;
    ensure!(status == StatusCode::OK, "the sidecar answered {status}: {}", answer["message"]);
    let token = answer["access_token"].as_str().context("the answer has no access_token")?;
    let life = answer["expires_in"].as_str().unwrap_or("?");
    say::done(
        "token",
        &format!("audience {AUDIENCE}, {life} s left, client id {}", answer["client_id"]),
        began.elapsed(),
    );
    Ok(Secret::new(token))
}

async fn request(stage: &Stage, hops: &Hops, way: &Way, token: &Secret) -> anyhow::Result<()> {
    let mark = hops.mark();
    let began = Instant::now();
    let (status, body) = send(way.http, call("GET", "/v1/health", way, token)?).await?;
    let took = began.elapsed();
    ensure!(status == StatusCode::OK && &body[..] == b"ok\n", "answered {status}: {}", String::from_utf8_lossy(&body));
    say::done("GET /v1/health", "200 ok (first request)", took);
    let mut stream = String::new();
    for (who, module) in [("connector", "gateway::connect"), ("gateway", "gateway::serve")] {
        let line = hops
            .wait(mark, LINE_PATIENCE, |line| {
                line.target == "access"
                    && line.module.starts_with(module)
                    && line.get("kind") == "http"
                    && (stream.is_empty() || line.get("stream") == stream)
            })
            .await
            .with_context(|| format!("the {who} wrote no access line for the request"))?;
        line.get("stream").clone_into(&mut stream);
        let text: Vec<String> = SHOWN
            .iter()
            .filter(|field| !line.get(field).is_empty())
            .map(|field| format!("{field}={}", line.get(field)))
            .collect();
        say::hop(who, &text.join("  "));
    }
    let served = hops
        .wait(mark, LINE_PATIENCE, |line| line.module.ends_with("::sample"))
        .await
        .context("the sample service did not see the request")?;
    ensure!(served.get("caller_token") == "false", "the caller's token reached the service");
    let seen = format!("{} saw {} {}", stage.scorer, served.get("method"), served.get("path"));
    say::hop("service", &format!("{seen} with Host {} and no caller token", served.get("host")));

    let began = Instant::now();
    let (status, _) = send(way.http, call("GET", "/v1/health", way, token)?).await?;
    ensure!(status == StatusCode::OK, "the second request answered {status}");
    say::done("GET /v1/health", "200 ok (warm)", began.elapsed());
    Ok(())
}

/// The policy allows GET and POST only.
async fn refusal(way: &Way, token: &Secret) -> anyhow::Result<()> {
    let began = Instant::now();
    let (status, body) = send(way.http, call("DELETE", "/v1/health", way, token)?).await?;
    ensure!(status == StatusCode::FORBIDDEN, "answered {status}: {}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).context("the refusal is not JSON")?;
    let detail = format!("403 {}, target reached: {}", answer["code"], answer["reached_target"]);
    say::done("DELETE /v1/health", &detail, began.elapsed());
    Ok(())
}

fn call(method: &str, path: &str, way: &Way, token: &Secret) -> anyhow::Result<Request<Empty<Bytes>>> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
    bearer.set_sensitive(true);
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, way.http.to_string())
        .header(header::AUTHORIZATION, bearer)
        .body(Empty::new())?)
}

async fn send(address: SocketAddr, request: Request<Empty<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let answered = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        tokio::pin!(connection);
        tokio::select! {
            biased;
            answered = answered => answered,
            ended = &mut connection => {
                ended?;
                bail!("the connection ended before the answer")
            }
        }
    };
    tokio::time::timeout(REQUEST_PATIENCE, exchange)
        .await
        .with_context(|| format!("no answer from {address} within {REQUEST_PATIENCE:?}"))?
}

/// Sends bytes through the TCP face to the echo behind it, and compares SHA-256 of what went and what came back.
async fn bulk(way: &Way, mebibytes: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    let total = u64::from(mebibytes) << 20;
    let stream = TcpStream::connect(way.tcp).await.with_context(|| format!("connecting to {}", way.tcp))?;
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();

    let sending = async {
        let mut piece = vec![0u8; PIECE];
        let mut digest = Digest::new(&SHA256);
        let mut left = total;
        aws_lc_rs::rand::fill(&mut piece).context("reading randomness")?;
        while left > 0 {
            let count = usize::try_from(left.min(PIECE as u64))?;
            // A new first eight bytes makes every piece another one; 64 MiB of fresh randomness would only cost time.
            piece[..8].copy_from_slice(&left.to_be_bytes());
            digest.update(&piece[..count]);
            let written = tokio::time::timeout(BULK_PATIENCE, write.write_all(&piece[..count])).await;
            written.with_context(|| format!("nothing was taken for {BULK_PATIENCE:?}; {left} bytes left"))??;
            left -= count as u64;
        }
        write.shutdown().await.context("half-closing")?;
        anyhow::Ok(digest.finish())
    };
    let receiving = async {
        let mut buffer = vec![0u8; PIECE];
        let mut digest = Digest::new(&SHA256);
        let mut seen = 0u64;
        loop {
            let count = tokio::time::timeout(BULK_PATIENCE, read.read(&mut buffer))
                .await
                .with_context(|| format!("nothing came for {BULK_PATIENCE:?} after {seen} bytes"))??;
            if count == 0 {
                return anyhow::Ok((digest.finish(), seen));
            }
            digest.update(&buffer[..count]);
            seen += count as u64;
        }
    };
    let (sent, (came, seen)) = tokio::try_join!(sending, receiving)?;
    ensure!(seen == total, "{total} bytes went in, {seen} came back");
    ensure!(sent.as_ref() == came.as_ref(), "checksums differ: the bytes were changed on the way");
    let took = began.elapsed();
    let rate = f64::from(mebibytes) * 2.0 / took.as_secs_f64();
    let digest: String = sent.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    say::done(
        &format!("{mebibytes} MiB there and back"),
        &format!("sha256 {digest}… equal, {rate:.0} MiB/s both ways together"),
        took,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_read_well() {
        assert_eq!(crate::say::millis(std::time::Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(crate::say::millis(std::time::Duration::from_millis(1234)), "1234 ms");
    }
}

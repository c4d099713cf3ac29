//! A relay that records everything it forwards learns neither token nor payload.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    recorder::Recorder,
    site::{CLUSTER, Face, Site},
    topology::ready,
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(90);

const REQUEST_MARKER: &str = "marker-of-the-request-body-7f3a";
const PATH_MARKER: &str = "marker-of-the-path-91c4";
const ANSWER_MARKER: &[u8] = b"marker-of-the-answer-c02e";
const BYTES_MARKER: &[u8] = b"marker-of-the-tcp-stream-55d8";

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_relay_sees_neither_token_nor_body() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (_gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let (_relay, relay_address) = site.relay().await;

        // The relay's operator: has the relay's certificate, and is what listener and connector talk to.
        let operator = Recorder::tls(&site.pki, site.relay_ip, relay_address).await;
        let mut listener = site.listener(operator.address, gateway_address);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        let connector = site.relay_connector(operator.address).await;
        connector.ready().await;

        // The same search on the plain sides of the tunnel, to show that it finds what is there.
        let outside = Recorder::plain(connector.address(Face::Caller)).await;
        let outside_tcp = Recorder::plain(connector.address(Face::Echo)).await;

        let token = site.issuer.valid();
        let secret = token.rsplit('.').next().unwrap();
        std::fs::write(site.nginx.web().join("answer.txt"), ANSWER_MARKER).unwrap();
        let base = format!("http://{}", outside.address);
        // The face accepts its own name only; the recorder in front of it has another port.
        let host = format!("Host: {}", connector.address(Face::Caller));
        let posted = Curl::new(format!("{base}/echo?{PATH_MARKER}"))
            .header(&host)
            .bearer(&token)
            .post(REQUEST_MARKER)
            .run()
            .await;
        assert!(posted.status == 200 && posted.text().contains(REQUEST_MARKER), "{posted:?}");
        let got = Curl::new(format!("{base}/answer.txt")).header(&host).bearer(&token).run().await;
        assert_eq!(got.body, ANSWER_MARKER);
        let mut stream = TcpStream::connect(outside_tcp.address).await.unwrap();
        stream.write_all(BYTES_MARKER).await.unwrap();
        let mut back = vec![0; BYTES_MARKER.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, BYTES_MARKER);

        for marker in [secret.as_bytes(), REQUEST_MARKER.as_bytes(), PATH_MARKER.as_bytes(), ANSWER_MARKER] {
            let name = String::from_utf8_lossy(marker);
            assert!(outside.saw(marker), "the search finds {name} where it is in the open");
            assert!(!operator.saw(marker), "the relay saw {name}");
        }
        assert!(outside_tcp.saw(BYTES_MARKER) && !operator.saw(BYTES_MARKER));
        // Nor the connector's own token, nor where requests go.
        let actor = std::fs::read_to_string(site.file("connector.token")).unwrap();
        for hidden in [actor.rsplit('.').next().unwrap(), "web.test", "echo.test"] {
            assert!(!operator.saw(hidden.as_bytes()), "the relay saw {hidden}");
        }
        // And the operator did see all there was: handshakes, control messages (which are masked on their way from the
        // listener), and more bytes than the payload has.
        for visible in ["GET /$hc/", CLUSTER, "\"accept\"", "causeway.v1"] {
            assert!(operator.saw(visible.as_bytes()), "the search finds {visible} at the relay");
        }
        assert!(operator.recorded() > 2 * REQUEST_MARKER.len() + ANSWER_MARKER.len() + BYTES_MARKER.len());
    })
    .await;
}

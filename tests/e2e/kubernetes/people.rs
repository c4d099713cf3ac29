//! Who it was: two people through one connector are two users in the API server's audit log, under the names that both of
//! our logs have for their streams; and the gateway can make nobody of a caller but those whom the owner listed.
use std::time::Duration;

use causeway_tests::wait::{until, within};
use gateway::trust::TrustFile;
use http::{HeaderMap, HeaderValue};
use identity::tls::cluster::inner_name;
use proto::tunnel::{client, pb, pb::forward_response, receive::Part, settings::Settings};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::world::World;

const LIMIT: Duration = Duration::from_secs(240);

const PODS: &str = "/api/v1/namespaces/models/pods";

/// The one event of the audit log, and nothing of anybody else.
async fn event(world: &World, mark: usize) -> Value {
    until("the audit log", async || world.audited(mark, PODS).pop()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_are_two_users_with_the_names_of_their_streams() {
    within(LIMIT, async {
        let world = World::start().await;
        let mut streams = Vec::new();
        for (person, groups) in [("alice", "causeway:editors"), ("bob", "causeway:readers")] {
            let mark = world.kubernetes.audit().len();
            world.done(person, &["-n", "models", "get", "pods"]).await;
            let event = event(&world, mark).await;
            assert_eq!(event["user"]["username"], "system:serviceaccount:causeway:gateway", "{event}");
            let became = &event["impersonatedUser"];
            assert_eq!(became["username"], format!("causeway:tests/{person}"), "{event}");
            assert!(became["groups"].as_array().unwrap().contains(&groups.into()), "{event}");
            let extra = |key: &str| became["extra"][format!("causeway.dev/{key}")][0].as_str().unwrap().to_owned();
            assert_eq!(extra("actor"), "tests/connector");
            assert_eq!(extra("subject"), format!("tests/{person}"));
            let stream = extra("stream");
            let line = world.gateway.log().access(&stream).await;
            assert_eq!(line.field("subject").as_deref(), Some(&*format!("tests/{person}")));
            assert_eq!(line.field("as_user").as_deref(), Some(&*format!("causeway:tests/{person}")));
            assert_eq!(line.field("path").as_deref(), Some(PODS));
            assert_eq!(world.connector.log().access(&stream).await.field("kind").as_deref(), Some("kubernetes"));
            streams.push(stream);
        }
        assert_ne!(streams[0], streams[1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_becomes_whom_the_owner_listed_and_can_do_nothing_as_itself() {
    within(LIMIT, async {
        let world = World::start().await;
        // Without even discovery kubectl knows no pods; the path it can ask for all the same.
        let refusal = world.refused("dora", &["get", "--raw", PODS]).await;
        assert!(
            refusal.contains("\"system:serviceaccount:causeway:gateway\" cannot impersonate resource \"users\""),
            "{refusal}"
        );
        let token = std::fs::read_to_string(world.site.file("gateway-account.token")).unwrap();
        let mine = |args: &[&str]| {
            let mut command = world.kubernetes.kubectl_command(&world.kubernetes.kubeconfig());
            command.args(["--token", &token]).args(args);
            command
        };
        for args in [
            &["-n", "models", "get", "pods"][..],
            &["-n", "causeway", "get", "secrets"],
            &["get", "pods", "-A", "--as", "admin", "--as-group", "system:masters"],
            &["get", "pods", "-A", "--as", "causeway:tests/alice", "--as-group", "system:masters"],
        ] {
            // kubectl takes the administrator's token unless the user's own is told.
            let said = mine(args).output().await.unwrap();
            let complaint = String::from_utf8_lossy(&said.stderr);
            assert!(!said.status.success() && complaint.contains("(Forbidden)"), "{args:?}: {complaint}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_by_which_a_caller_says_who_it_is_change_nothing() {
    within(LIMIT, async {
        let world = World::start().await;
        let refusal = world.refused("alice", &["-n", "models", "get", "pods", "--as", "admin"]).await;
        assert!(refusal.contains("remove `--as`"), "{refusal}");

        // A connector of somebody else's making, that leaves nothing out.
        let text = std::fs::read_to_string(world.site.file("factory-a.trust.yaml")).unwrap();
        let proof = TrustFile::parse(&text).unwrap().proof().unwrap();
        let tcp = tokio::net::TcpStream::connect(world.gateway_address).await.unwrap();
        let session = TlsConnector::from(proof.inner_client(None).unwrap()).connect(inner_name(), tcp).await.unwrap();
        let (client, driver) = client::connect(session, Settings::default()).await.unwrap();
        let asking = async {
            for (name, value) in [
                ("Impersonate-User", "admin"),
                ("impersonate_user", "admin"),
                ("IMPERSONATE-GROUP", "system:masters"),
                ("Impersonate-Extra-causeway.dev%2fstream", "forged"),
                ("x-remote-user", "admin"),
                ("X_Remote_Group", "system:masters"),
                ("authorization", &format!("Bearer {}", world.kubernetes.admin_token())),
                ("connection", "Impersonate-User, Impersonate-Group, Authorization"),
                ("connection", "close, impersonate-extra-causeway.dev%2fstream"),
            ] {
                let mark = world.kubernetes.audit().len();
                let token = HeaderValue::try_from(format!("Bearer {}", world.token("alice"))).unwrap();
                let metadata = HeaderMap::from_iter([(http::header::AUTHORIZATION, token)]);
                let field = pb::Field { name: name.to_owned(), value: value.to_owned().into() };
                let request = pb::KubernetesRequest {
                    method: "GET".to_owned(),
                    path: PODS.to_owned(),
                    fields: vec![field],
                    no_body: true,
                    upgrade: String::new(),
                };
                let open = pb::Open { target: Some(pb::open::Target::Kubernetes(request)), hops: 0 };
                let (mut sender, mut receiver) = client.forward(metadata, open).await.unwrap();
                sender.fin(pb::Fin::default()).await.unwrap();
                match receiver.next().await.unwrap().unwrap() {
                    Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Head(head)) }) => {
                        assert_eq!(head.status, 200, "{name}: {head:?}");
                    }
                    other => panic!("unexpected {other:?}"),
                }
                while let Some(part) = receiver.next().await {
                    part.unwrap();
                }
                let event = event(&world, mark).await;
                assert_eq!(event["user"]["username"], "system:serviceaccount:causeway:gateway", "{name}: {event}");
                let became = &event["impersonatedUser"];
                assert_eq!(became["username"], "causeway:tests/alice", "{name}: {event}");
                let groups = became["groups"].as_array().unwrap();
                assert!(!groups.contains(&"system:masters".into()), "{name}: {event}");
                assert_ne!(became["extra"]["causeway.dev/stream"][0], "forged", "{name}: {event}");
            }
        };
        tokio::select! {
            () = asking => {}
            ended = driver => panic!("the tunnel ended: {ended:?}"),
        }
    })
    .await;
}

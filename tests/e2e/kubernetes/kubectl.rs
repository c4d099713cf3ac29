//! kubectl works unmodified: through connector, tunnel and gateway, with a kubeconfig that `gateway kubeconfig` wrote.
use std::{io::Write as _, time::Duration};

use causeway_tests::{curl::Curl, wait::within};
use serde_json::json;

use super::world::World;

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_applied_read_watched_and_deleted() {
    within(LIMIT, async {
        let world = World::start().await;
        let pods = world.done("alice", &["-n", "models", "get", "pods", "-o", "name"]).await;
        assert_eq!(pods, "pod/scorer-0\n");

        let (_watcher, mut lines) =
            world.following("alice", &["-n", "models", "get", "configmaps", "-o", "name", "--watch"]);
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings", "namespace": "models" },
            "data": { "size": "x".repeat(200_000) } });
        let file = world.object("settings.json", &map);
        let said = world.done("alice", &["apply", "-f", file.to_str().unwrap()]).await;
        assert_eq!(said, "configmap/settings created\n");
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("configmap/settings"));
        let size = world.done("alice", &["-n", "models", "get", "configmap", "settings", "-o", "jsonpath={.data.size}"]).await;
        assert_eq!(size.len(), 200_000);
        world.done("alice", &["-n", "models", "annotate", "configmap", "settings", "owner=alice"]).await;
        // The watch lasts, and tells the change.
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("configmap/settings"));
        let said = world.done("alice", &["-n", "models", "delete", "configmap", "settings"]).await;
        assert_eq!(said, "configmap \"settings\" deleted\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_logs_follow_files_are_copied_and_ports_forwarded() {
    within(LIMIT, async {
        let world = World::start().await;
        let said = world
            .run("alice", &["-n", "models", "exec", "scorer-0", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])
            .await;
        assert_eq!((said.status.code(), said.stdout.as_slice()), (Some(3), b"out\n".as_slice()), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).starts_with("err\n"), "{said:?}");

        std::fs::write(world.kubernetes.node_log(), "first\n").unwrap();
        let (_follower, mut lines) = world.following("alice", &["-n", "models", "logs", "-f", "scorer-0"]);
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("first"));
        let mut log = std::fs::OpenOptions::new().append(true).open(world.kubernetes.node_log()).unwrap();
        log.write_all(b"second\n").unwrap();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("second"));

        // There and back, through the pod's file system, which is this machine's.
        let (here, pod, back) = (world.site.file("up.bin"), world.site.file("in-pod.bin"), world.site.file("down.bin"));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&here, &bytes).unwrap();
        let inside = format!("models/scorer-0:{}", pod.display());
        world.done("alice", &["cp", here.to_str().unwrap(), &inside]).await;
        assert!(std::fs::read(&pod).unwrap() == bytes, "the pod has the file");
        world.done("alice", &["cp", &inside, back.to_str().unwrap()]).await;
        assert!(std::fs::read(&back).unwrap() == bytes, "and it comes back");

        let port = world.site.nginx.address.port();
        let (_forwarder, mut lines) =
            world.following("alice", &["-n", "models", "port-forward", "scorer-0", &format!(":{port}")]);
        let line = lines.next_line().await.unwrap().unwrap();
        let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()).unwrap();
        for _ in 0..3 {
            let answer = Curl::new(format!("http://{local}/")).run().await;
            assert_ne!(answer.status, 0, "{answer:?}");
        }
    })
    .await;
}

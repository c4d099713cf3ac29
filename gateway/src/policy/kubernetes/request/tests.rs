//! Requests read as the API server reads them, and those that could be read in two ways refused.
use super::*;

/// `verb group/resource/subresource namespace object`, with `-` for what is absent; or `verb path`.
fn shown(method: &str, path: &str, upgrade: bool) -> String {
    match Request::read(method, path, upgrade) {
        Err(error) => error.to_string(),
        Ok(Request { verb, what: What::Path(path) }) => format!("{} {path}", verb.name()),
        Ok(Request { verb, what: What::Resource(resource) }) => {
            let or = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
            let Resource { group, name, subresource, namespace, object } = &resource;
            let group = if group.is_empty() { "core" } else { group };
            format!("{} {group}/{name}/{} {} {}", verb.name(), or(subresource), or(namespace), or(object))
        }
    }
}

#[test]
fn requests_are_read_as_the_api_server_reads_them() {
    for (method, path, expected) in [
        // One object, many, and changes of them.
        ("GET", "/api/v1/namespaces/models/pods/a", "get core/pods/- models a"),
        ("HEAD", "/api/v1/namespaces/models/pods/a", "get core/pods/- models a"),
        ("GET", "/api/v1/namespaces/models/pods", "list core/pods/- models -"),
        ("HEAD", "/api/v1/namespaces/models/pods", "list core/pods/- models -"),
        ("GET", "/api/v1/pods", "list core/pods/- - -"),
        ("GET", "/api/v1/pods/", "list core/pods/- - -"),
        ("POST", "/api/v1/namespaces/models/pods", "create core/pods/- models -"),
        ("PUT", "/api/v1/namespaces/models/pods/a", "update core/pods/- models a"),
        ("PATCH", "/api/v1/namespaces/models/pods/a", "patch core/pods/- models a"),
        ("DELETE", "/api/v1/namespaces/models/pods/a", "delete core/pods/- models a"),
        ("DELETE", "/api/v1/namespaces/models/pods", "deletecollection core/pods/- models -"),
        ("OPTIONS", "/api/v1/namespaces/models/pods", "(unknown verb) core/pods/- models -"),
        ("LIST", "/api/v1/namespaces/models/pods", "(unknown verb) core/pods/- models -"),
        // Groups.
        ("GET", "/apis/apps/v1/namespaces/models/deployments/a", "get apps/deployments/- models a"),
        ("GET", "/apis/apps/v1/deployments", "list apps/deployments/- - -"),
        ("PUT", "/apis/apps/v1/namespaces/models/deployments/a/scale", "update apps/deployments/scale models a"),
        ("GET", "/api/v1/nodes/n", "get core/nodes/- - n"),
        // Namespaces as place, as object, and with subresources of their own.
        ("GET", "/api/v1/namespaces", "list core/namespaces/- - -"),
        ("POST", "/api/v1/namespaces", "create core/namespaces/- - -"),
        ("GET", "/api/v1/namespaces/models", "get core/namespaces/- models models"),
        ("DELETE", "/api/v1/namespaces/models", "delete core/namespaces/- models models"),
        ("PUT", "/api/v1/namespaces/models/status", "update core/namespaces/status models models"),
        ("PUT", "/api/v1/namespaces/models/finalize", "update core/namespaces/finalize models models"),
        // Watches, by the old prefix and by query.
        ("GET", "/api/v1/watch/pods", "watch core/pods/- - -"),
        ("GET", "/api/v1/watch/namespaces/models/secrets", "watch core/secrets/- models -"),
        ("GET", "/api/v1/watch/namespaces/models/secrets/a", "watch core/secrets/- models a"),
        ("POST", "/api/v1/watch/namespaces/models/secrets", "watch core/secrets/- models -"),
        ("GET", "/apis/apps/v1/watch/deployments", "watch apps/deployments/- - -"),
        ("GET", "/api/v1/pods?watch=true", "watch core/pods/- - -"),
        ("GET", "/api/v1/pods?watch", "watch core/pods/- - -"),
        ("GET", "/api/v1/pods?watch=1&limit=5", "watch core/pods/- - -"),
        ("GET", "/api/v1/pods?limit=5&w%61tch=t", "watch core/pods/- - -"),
        ("GET", "/api/v1/pods?watch=no", "watch core/pods/- - -"),
        ("GET", "/api/v1/pods?watch=0", "list core/pods/- - -"),
        ("GET", "/api/v1/pods?watch=FALSE", "list core/pods/- - -"),
        ("GET", "/api/v1/pods?watching=1", "list core/pods/- - -"),
        ("GET", "/api/v1/namespaces/models/pods/a?watch=1", "get core/pods/- models a"),
        ("POST", "/api/v1/namespaces/models/pods?watch=1", "create core/pods/- models -"),
        ("GET", "/api/v1/namespaces/models/pods?fieldSelector=metadata.name%3Da", "list core/pods/- models -"),
        // What reaches in, whatever the method.
        ("POST", "/api/v1/namespaces/models/pods/a/exec?command=ls", "connect core/pods/exec models a"),
        ("GET", "/api/v1/namespaces/models/pods/a/exec?command=ls", "connect core/pods/exec models a"),
        ("GET", "/api/v1/namespaces/models/pods/a/%65xec", "connect core/pods/exec models a"),
        ("GET", "/api/v1/namespaces/models/pods/a/attach", "connect core/pods/attach models a"),
        ("POST", "/api/v1/namespaces/models/pods/a/portforward", "connect core/pods/portforward models a"),
        ("GET", "/api/v1/namespaces/models/pods/a:8080/proxy/x/y", "connect core/pods/proxy models a:8080"),
        ("GET", "/api/v1/namespaces/models/services/https:a:1/proxy", "connect core/services/proxy models https:a:1"),
        ("GET", "/api/v1/nodes/n/proxy/run/x", "connect core/nodes/proxy - n"),
        ("GET", "/api/v1/proxy/nodes/n/run/x", "connect core/nodes/proxy - n"),
        ("GET", "/api/v1/proxy/namespaces/models/pods/a", "connect core/pods/proxy models a"),
        ("GET", "/api/v1/namespaces/models/pods/a/log?follow=true", "get core/pods/log models a"),
        (
            "GET",
            "/apis/sub.kubevirt.io/v1/namespaces/models/vms/a/portforward/80",
            "connect sub.kubevirt.io/vms/portforward models a",
        ),
        // No resources.
        ("GET", "/", "get /"),
        ("GET", "/version", "get /version"),
        ("GET", "/api", "get /api"),
        ("GET", "/api/v1", "get /api/v1"),
        ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
        ("HEAD", "/healthz", "head /healthz"),
        ("POST", "/apis/apps", "post /apis/apps"),
        ("GET", "/metrics/a?watch=1", "get /metrics/a"),
        ("GET", "/API/v1/pods", "get /API/v1/pods"),
        ("TRACE", "/metrics", "(unknown verb) /metrics"),
    ] {
        assert_eq!(shown(method, path, false), expected, "{method} {path}");
    }
}

#[test]
fn whoever_asks_for_a_pipe_connects_unless_it_can_only_listen() {
    for (method, path, expected) in [
        ("GET", "/api/v1/namespaces/models/pods/a/exec", "connect core/pods/exec models a"),
        ("GET", "/apis/sub.kubevirt.io/v1/namespaces/models/vms/a/vnc", "connect sub.kubevirt.io/vms/vnc models a"),
        ("GET", "/api/v1/namespaces/models/pods", "connect core/pods/- models -"),
        ("POST", "/api/v1/namespaces/models/pods", "connect core/pods/- models -"),
        ("GET", "/metrics", "connect /metrics"),
        ("GET", "/api/v1/namespaces/models/pods?watch=1", "watch core/pods/- models -"),
        ("GET", "/api/v1/namespaces/models/pods/a/log?follow=1", "get core/pods/log models a"),
    ] {
        assert_eq!(shown(method, path, true), expected, "{method} {path}");
    }
}

#[test]
fn what_two_servers_could_read_differently_is_not_read() {
    for path in [
        "/api/v1//pods",
        "//api/v1/pods",
        "/api/v1/namespaces/models/../causeway/secrets",
        "/api/v1/namespaces/models/%2e%2e/causeway/secrets",
        "/api/v1/namespaces/models%2fpods",
        "/api/v1/namespaces/models/pods;x=y",
        "/api/v1/namespaces/models/pods/a%00",
        "/api/v1/namespaces/m\\odels/pods",
        "/api/v1/pods?limit=5;watch=1",
        "/api/v1/pods?watch=0&watch=1",
        "/api/v1/pods?watch=%zz",
        "/api/v1/pods?%=1",
        "/api/v1/watch",
        "/api/v1/proxy/",
    ] {
        assert!(Request::read("GET", path, false).is_err(), "{path} {}", shown("GET", path, false));
    }
}

#[test]
fn what_the_gateway_stands_on_is_recognised() {
    let core = "/api/v1/namespaces";
    for (method, path, ours) in [
        // Reading is no matter, but for keys.
        ("GET", format!("{core}/causeway/pods"), false),
        ("GET", format!("{core}/causeway/configmaps/policy"), false),
        ("GET", format!("{core}/causeway/secrets"), true),
        ("GET", format!("{core}/causeway/secrets/ca"), true),
        ("GET", "/api/v1/watch/namespaces/causeway/secrets/ca".to_owned(), true),
        ("GET", "/api/v1/secrets".to_owned(), true),
        ("GET", "/api/v1/secrets?watch=1".to_owned(), true),
        ("GET", "/api/v1/watch/secrets".to_owned(), true),
        ("GET", format!("{core}/models/secrets"), false),
        ("GET", "/apis/secrets.example.com/v1/secrets".to_owned(), false),
        // Writes and pipes.
        ("PATCH", format!("{core}/causeway/configmaps/policy"), true),
        ("POST", format!("{core}/causeway/serviceaccounts/gateway/token"), true),
        ("POST", format!("{core}/causeway/pods/gateway/exec"), true),
        ("GET", format!("{core}/causeway/pods/gateway/exec"), true),
        ("GET", format!("{core}/causeway/services/identity/proxy"), true),
        ("POST", "/apis/apps/v1/namespaces/causeway/deployments".to_owned(), true),
        ("DELETE", format!("{core}/causeway"), true),
        ("PUT", format!("{core}/causeway/finalize"), true),
        ("OPTIONS", format!("{core}/causeway/pods"), true),
        ("POST", format!("{core}/models/pods"), false),
        ("POST", core.to_owned(), false),
        // Kinds and webhooks.
        ("PUT", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/identities.causeway.dev".to_owned(), true),
        ("PUT", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/crontabs.example.com".to_owned(), false),
        ("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(), true),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(), false),
        ("POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned(), true),
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/x".to_owned(), true),
        ("PUT", "/apis/causeway.dev/v1alpha1/identitysources/ml".to_owned(), true),
        ("GET", "/apis/causeway.dev/v1alpha1/identitysources/ml".to_owned(), false),
        ("PUT", "/apis/causeway.dev/v1alpha1/namespaces/models/identities/a".to_owned(), false),
        ("DELETE", "/api/v1/configmaps".to_owned(), true),
        ("GET", "/version".to_owned(), false),
    ] {
        let request = Request::read(method, &path, false).unwrap();
        assert_eq!(request.touches_ours("causeway"), ours, "{method} {path}");
    }
}

#[test]
fn only_documents_that_say_what_there_is_are_discovery() {
    for (method, path, discovery) in [
        ("GET", "/api", true),
        ("GET", "/api/v1", true),
        ("GET", "/apis/apps/v1/", true),
        ("GET", "/openapi/v3/apis/apps/v1", true),
        ("GET", "/version", true),
        ("POST", "/version", false),
        ("GET", "/metrics", false),
        ("GET", "/", false),
        ("GET", "/api/v1/pods", false),
    ] {
        assert_eq!(Request::read(method, path, false).unwrap().is_discovery(), discovery, "{method} {path}");
    }
    assert!(!Request::read("GET", "/api", true).unwrap().is_discovery(), "a pipe is none");
}

#[test]
fn what_may_be_silent_for_ever_is_known() {
    for (path, lasts) in [
        ("/api/v1/pods?watch=1", true),
        ("/api/v1/namespaces/a/pods/b/log", true),
        ("/api/v1/namespaces/a/pods/b/exec", true),
        ("/api/v1/pods", false),
        ("/metrics", false),
    ] {
        assert_eq!(Request::read("GET", path, false).unwrap().lasts(), lasts, "{path}");
    }
}

proptest::proptest! {
    #[test]
    fn anything_is_read_or_refused(
        method in "[A-Z]{1,8}", path in "/(api|apis|watch|proxy|namespaces|v1|%[0-9a-f]{2}|[ -~]{0,6}|/){0,9}(\\?[ -~]{0,12})?",
        upgrade: bool
    ) {
        if let Ok(request) = Request::read(&method, &path, upgrade) {
            let _ = (request.touches_ours("causeway"), request.lasts(), request.is_discovery(), request.to_string());
        }
    }
}

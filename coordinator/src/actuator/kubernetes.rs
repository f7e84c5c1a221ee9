//! Agents that are pods of a Deployment or StatefulSet: the number is set by its scale subresource.
//!
//! Who is to go is said by the annotation `controller.kubernetes.io/pod-deletion-cost`, which the controller of a Deployment
//! goes by among pods that are ready. That of a StatefulSet always ends the highest ordinals.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, ScaleSpec};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::Status;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::AgentId;
use tokio::sync::OnceCell;
use tracing::debug;

use super::Start;

/// Says what it costs to end a pod: less than the others, which cost 0.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const CHEAPEST: &str = "-1000";
/// How long a pod that is to end now has for it.
const GRACE_SECONDS: u32 = 1;
/// How long the API server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of `type = "kubernetes"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What the pods are of.
    #[serde(default)]
    pub kind: Kind,
    /// What that is called. Its agents must be called like their pods: `HIVE_AGENT` from `metadata.name`.
    pub name: String,
    /// Where it is; where the coordinator is itself, or what the kubeconfig says, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The kubeconfig by which the API server is reached. Without it, it is that of `KUBECONFIG` or of the home directory,
    /// and within a cluster the account of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Which of the kubeconfig's contexts holds; its current one if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// What pods of agents are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub enum Kind {
    /// A Deployment, which ends the pods that were chosen.
    #[default]
    Deployment,
    /// A StatefulSet, which ends those with the highest ordinals, whoever was chosen.
    StatefulSet,
}

impl Kind {
    fn resource(self) -> ApiResource {
        let kind = match self {
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind))
    }
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, name) in [("name", Some(&self.name)), ("namespace", self.namespace.as_ref())] {
            if let Some(name) = name.filter(|name| !is_name(name)) {
                problems.push(format!("{key}: `{name}` is no name in Kubernetes: use 1 to 253 of a-z 0-9 - ."));
            }
        }
        problems
    }
}

fn is_name(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_good = |byte| is_alphanumeric(byte) || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(is_good) && text.bytes().next().is_some_and(is_alphanumeric)
}

/// Why Kubernetes did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no way to the API server.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// The same, where several places were looked at.
    #[error("Kubernetes cannot be reached: name a `kubeconfig`, or run within the cluster with an account")]
    Infer(#[source] Box<InferConfigError>),
    /// There is no client.
    #[error("failed to set up the client of Kubernetes")]
    Client(#[source] Box<kube::Error>),
    /// The account may not do it.
    #[error("this coordinator's account may not {what}: give it the rights of deploy/kubernetes/scaling.yaml")]
    Forbidden {
        /// What was to be done.
        what: String,
        /// What the API server says.
        source: Box<Status>,
    },
    /// It was refused.
    #[error("Kubernetes does not {what}")]
    Refused {
        /// What was to be done.
        what: String,
        /// What the API server says.
        source: Box<Status>,
    },
    /// The API server was not reached.
    #[error("failed to {what}: is the API server of Kubernetes in reach?")]
    Unreached {
        /// What was to be done.
        what: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
    /// There was no answer.
    #[error("the API server of Kubernetes did not answer within {TIMEOUT:?}, to {what}")]
    Silent {
        /// What was to be done.
        what: String,
    },
}

/// The Deployment or StatefulSet of one pool.
#[derive(Debug)]
pub(super) struct Workload {
    config: Config,
    reached: OnceCell<Reached>,
}

struct Reached {
    workloads: Api<DynamicObject>,
    pods: Api<Pod>,
}

impl std::fmt::Debug for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reached").field("namespace", &self.pods.namespace()).finish_non_exhaustive()
    }
}

impl Workload {
    pub(super) fn new(config: &Config) -> Self {
        Self { config: config.clone(), reached: OnceCell::new() }
    }

    /// More replicas; never fewer than there are to be already, since whoever is too many is drained first.
    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let replicas = self.replicas().await?;
        if replicas < start.wished { self.set_replicas(start.wished).await } else { Ok(()) }
    }

    /// First who is to go, and then how many are to stay.
    pub(super) async fn leaving(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        let pods = &self.reached().await?.pods;
        let params = PatchParams::default();
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { DELETION_COST: CHEAPEST } } }));
        for agent in agents {
            let annotated = pods.patch(agent.as_str(), &params, &patch);
            self.ask_unless_gone(format!("annotate pod `{agent}`"), annotated).await?;
        }
        self.shrink_to(wished).await
    }

    /// What is there of them still is ended: at once what is ending already, and with the time that it has for it what has
    /// begun anew since it left, which may be at work.
    pub(super) async fn remove(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        self.shrink_to(wished).await?;
        for agent in agents {
            self.end(agent).await?;
        }
        Ok(())
    }

    async fn end(&self, agent: &AgentId) -> Result<(), Error> {
        let pods = &self.reached().await?.pods;
        let Some(pod) = self.ask(format!("get pod `{agent}`"), pods.get_opt(agent.as_str())).await? else {
            return Ok(());
        };
        let grace_period_seconds = pod.metadata.deletion_timestamp.is_some().then_some(GRACE_SECONDS);
        let params = DeleteParams { grace_period_seconds, ..DeleteParams::default() };
        self.ask_unless_gone(format!("delete pod `{agent}`"), pods.delete(agent.as_str(), &params)).await
    }

    async fn shrink_to(&self, wished: u32) -> Result<(), Error> {
        let replicas = self.replicas().await?;
        if replicas > wished { self.set_replicas(wished).await } else { Ok(()) }
    }

    async fn replicas(&self) -> Result<u32, Error> {
        let workloads = &self.reached().await?.workloads;
        let scale = self.ask(self.about("get the scale of"), workloads.get_scale(&self.config.name)).await?;
        let replicas = scale.spec.and_then(|ScaleSpec { replicas }| replicas).unwrap_or_default();
        Ok(u32::try_from(replicas).unwrap_or_default())
    }

    async fn set_replicas(&self, replicas: u32) -> Result<(), Error> {
        let name = &self.config.name;
        debug!(name, replicas, "set the replicas");
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({ "spec": { "replicas": replicas } })));
        let set = self.reached().await?.workloads.patch_scale(name, &params, &patch);
        self.ask(self.about("set the scale of"), set).await?;
        Ok(())
    }

    fn about(&self, what: &str) -> String {
        format!("{what} {} `{}`", self.config.kind.resource().plural, self.config.name)
    }

    async fn ask<T>(&self, what: String, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(source))) if source.is_forbidden() => Err(Error::Forbidden { what, source }),
            Ok(Err(kube::Error::Api(source))) => Err(Error::Refused { what, source }),
            Ok(Err(error)) => Err(Error::Unreached { what, source: Box::new(error) }),
            Err(_) => Err(Error::Silent { what }),
        }
    }

    /// The same of a pod; one that is gone needs nothing.
    async fn ask_unless_gone<T>(
        &self,
        what: String,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<(), Error> {
        match self.ask(what, asked).await {
            Err(Error::Refused { source, .. }) if source.is_not_found() => Ok(()),
            asked => asked.map(|_| ()),
        }
    }

    async fn reached(&self) -> Result<&Reached, Error> {
        self.reached.get_or_try_init(|| self.reach()).await
    }

    async fn reach(&self) -> Result<Reached, Error> {
        shared::connect::choose_cryptography();
        let config = self.how_it_is_reached().await?;
        let client = Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
        let namespace = self.config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let resource = self.config.kind.resource();
        Ok(Reached {
            workloads: Api::namespaced_with(client.clone(), &namespace, &resource),
            pods: Api::namespaced(client, &namespace),
        })
    }

    async fn how_it_is_reached(&self) -> Result<kube::Config, Error> {
        let Config { kubeconfig, context, .. } = &self.config;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let bad = |error| Error::Kubeconfig(Box::new(error));
        match kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(bad)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(bad)
            }
            None if context.is_some() => kube::Config::from_kubeconfig(&options).await.map_err(bad),
            None => kube::Config::infer().await.map_err(|error| Error::Infer(Box::new(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use axum::body::Bytes;
    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse as _, Response};
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;

    const SCALE: &str = "/apis/apps/v1/namespaces/hivemesh/deployments/agent/scale";

    /// Poses as the API server: it has one Deployment and some pods, and keeps what it is asked to change.
    #[derive(Clone, Default)]
    struct ApiServer(Arc<Mutex<Cluster>>);

    #[derive(Default)]
    struct Cluster {
        replicas: i64,
        /// By name, and whether they are ending.
        pods: BTreeMap<String, bool>,
        changes: Vec<(String, Value)>,
        forbids: bool,
    }

    impl ApiServer {
        fn with(replicas: i64, pods: &[(&str, bool)]) -> Self {
            let server = Self::default();
            let mut cluster = server.0.lock().unwrap();
            cluster.replicas = replicas;
            cluster.pods = pods.iter().map(|(name, ends)| ((*name).to_owned(), *ends)).collect();
            drop(cluster);
            server
        }

        /// A workload that is reached by a kubeconfig.
        async fn workload(&self, dir: &Path, kind: Kind) -> Workload {
            let app = axum::Router::new().fallback(answer).with_state(self.clone());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            let kubeconfig = dir.join("kubeconfig");
            let cluster = json!({ "name": "test", "cluster": { "server": format!("http://{address}") } });
            let context =
                json!({ "name": "test", "context": { "cluster": "test", "user": "me", "namespace": "hivemesh" } });
            let user = json!({ "name": "me", "user": { "token": "secret" } });
            // JSON is YAML.
            let text = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [cluster], "contexts": [context], "users": [user]
            });
            std::fs::write(&kubeconfig, text.to_string()).unwrap();
            Workload::new(&Config {
                kind,
                name: "agent".to_owned(),
                namespace: None,
                kubeconfig: Some(kubeconfig),
                context: None,
            })
        }

        fn changes(&self) -> Vec<(String, Value)> {
            std::mem::take(&mut self.0.lock().unwrap().changes)
        }
    }

    fn status(code: u16, reason: &str) -> Response {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code
        });
        (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
    }

    async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(parts.headers["authorization"], "Bearer secret");
        let path = parts.uri.path().to_owned();
        let mut cluster = server.0.lock().unwrap();
        if cluster.forbids {
            return status(403, "Forbidden");
        }
        if parts.method != Method::GET {
            if parts.method == Method::PATCH {
                assert_eq!(parts.headers["content-type"], "application/merge-patch+json");
            }
            cluster.changes.push((format!("{} {path}", parts.method), body.clone()));
        }
        if path.ends_with("/scale") {
            if parts.method == Method::PATCH {
                cluster.replicas = body["spec"]["replicas"].as_i64().unwrap();
            }
            let scale = json!({
                "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "agent" },
                "spec": { "replicas": cluster.replicas }
            });
            return axum::Json(scale).into_response();
        }
        let name = path.rsplit('/').next().unwrap();
        let Some(ends) = cluster.pods.get(name) else { return status(404, "NotFound") };
        let deleted = ends.then_some("2026-12-01T12:00:00Z");
        let metadata = json!({ "name": name, "namespace": "hivemesh", "deletionTimestamp": deleted });
        axum::Json(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata })).into_response()
    }

    fn agents(ids: &[&str]) -> Vec<AgentId> {
        ids.iter().map(|id| AgentId::new(id).unwrap()).collect()
    }

    #[tokio::test]
    async fn more_agents_are_more_replicas_however_often_it_is_said() {
        let (dir, server) = (tempfile::tempdir().unwrap(), ApiServer::with(2, &[]));
        let workload = server.workload(dir.path(), Kind::Deployment).await;

        for _ in 0..2 {
            workload.start(&Start { order: 1, count: 3, wished: 5 }).await.unwrap();
        }
        // Whoever is too many is drained first.
        workload.start(&Start { order: 2, count: 1, wished: 4 }).await.unwrap();

        assert_eq!(server.changes(), [(format!("PATCH {SCALE}"), json!({ "spec": { "replicas": 5 } }))]);
    }

    #[tokio::test]
    async fn who_is_to_go_is_said_before_the_number_falls() {
        let (dir, server) = (tempfile::tempdir().unwrap(), ApiServer::with(4, &[("agent-a", false)]));
        let workload = server.workload(dir.path(), Kind::Deployment).await;

        workload.leaving(&agents(&["agent-a", "agent-gone"]), 2).await.unwrap();

        let cost = json!({ "metadata": { "annotations": { DELETION_COST: "-1000" } } });
        let pod = |name: &str| (format!("PATCH /api/v1/namespaces/hivemesh/pods/{name}"), cost.clone());
        let scaled = (format!("PATCH {SCALE}"), json!({ "spec": { "replicas": 2 } }));
        assert_eq!(server.changes(), [pod("agent-a"), pod("agent-gone"), scaled]);
    }

    #[tokio::test]
    async fn only_a_pod_that_is_ending_already_is_ended_at_once() {
        let pods = [("agent-ends", true), ("agent-anew", false)];
        let (dir, server) = (tempfile::tempdir().unwrap(), ApiServer::with(2, &pods));
        let workload = server.workload(dir.path(), Kind::Deployment).await;

        workload.remove(&agents(&["agent-ends", "agent-anew", "agent-gone"]), 2).await.unwrap();

        let changes = server.changes();
        let [(first, at_once), (second, with_time)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(first, "DELETE /api/v1/namespaces/hivemesh/pods/agent-ends");
        assert_eq!(second, "DELETE /api/v1/namespaces/hivemesh/pods/agent-anew");
        assert_eq!((&at_once["gracePeriodSeconds"], &with_time["gracePeriodSeconds"]), (&json!(1), &Value::Null));
    }

    #[tokio::test]
    async fn a_stateful_set_is_scaled_by_its_own_subresource() {
        let (dir, server) = (tempfile::tempdir().unwrap(), ApiServer::with(1, &[]));
        let workload = server.workload(dir.path(), Kind::StatefulSet).await;

        workload.start(&Start { order: 1, count: 1, wished: 2 }).await.unwrap();

        assert_eq!(server.changes()[0].0, format!("PATCH {}", SCALE.replace("deployments", "statefulsets")));
    }

    #[tokio::test]
    async fn rights_that_are_missing_are_told() {
        let (dir, server) = (tempfile::tempdir().unwrap(), ApiServer::with(1, &[]));
        server.0.lock().unwrap().forbids = true;
        let workload = server.workload(dir.path(), Kind::Deployment).await;

        let error = workload.start(&Start { order: 1, count: 1, wished: 2 }).await.unwrap_err();

        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
        assert!(error.to_string().contains("may not get the scale of deployments `agent`"), "{error}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_told() {
        let config = Config {
            kind: Kind::default(),
            name: "agent".to_owned(),
            namespace: None,
            kubeconfig: Some("/nowhere/kubeconfig".into()),
            context: None,
        };

        let error = Workload::new(&config).start(&Start { order: 1, count: 1, wished: 2 }).await.unwrap_err();

        assert!(matches!(error, Error::Kubeconfig(_)), "{error:?}");
    }

    #[test]
    fn names_are_checked() {
        let config = |name: &str| Config {
            kind: Kind::default(),
            name: name.to_owned(),
            namespace: None,
            kubeconfig: None,
            context: None,
        };

        assert!(config("agent-2").problems().is_empty());
        for name in ["", "Agent", "a/b", "-a"] {
            assert_eq!(config(name).problems().len(), 1, "{name}");
        }
    }
}

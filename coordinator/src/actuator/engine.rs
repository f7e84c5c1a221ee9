//! The Docker Engine, as the actuators use it.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
};
use tokio::sync::OnceCell;

/// Where the Engine listens, unless something else is said.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
const HOST_VARIABLE: &str = "DOCKER_HOST";
/// How long the Engine may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the Engine did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not reached.
    #[error("the Docker Engine at `{host}` does not answer: is it there, and may this user reach it?")]
    Unreached {
        /// Where.
        host: String,
        /// What went wrong.
        source: Box<EngineError>,
    },
    /// It says no.
    #[error("the Docker Engine at `{host}` does not {what}")]
    Refused {
        /// Where.
        host: String,
        /// What was to be done.
        what: String,
        /// What it says.
        source: Box<EngineError>,
    },
    /// It has no such image.
    #[error("the Docker Engine at `{host}` has no image `{image}`: build it, or `docker pull` it there")]
    NoImage {
        /// Where.
        host: String,
        /// The image.
        image: String,
        /// What it says.
        source: Box<EngineError>,
    },
}

/// What is wrong with the address of an Engine, if anything is.
pub(super) fn problem_with_host(host: Option<&str>) -> Option<String> {
    let schemes = ["unix://", "tcp://", "http://", "https://"];
    let host = host.filter(|host| !schemes.iter().any(|scheme| host.starts_with(scheme)))?;
    Some(format!("host: `{host}` is none: write unix:///path/of/docker.sock, tcp://host:2375, or https://host:2376"))
}

/// A Docker Engine.
#[derive(Debug)]
pub(super) struct Engine {
    host: String,
    connected: OnceCell<Docker>,
}

/// A container of the Engine.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
    pub(super) has_ended: bool,
    labels: HashMap<String, String>,
}

impl Container {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

impl From<ContainerSummary> for Container {
    fn from(summary: ContainerSummary) -> Self {
        use ContainerSummaryStateEnum::{DEAD, EXITED, REMOVING};
        Self {
            id: summary.id.unwrap_or_default(),
            created: summary.created.unwrap_or_default(),
            has_ended: matches!(summary.state, Some(DEAD | EXITED | REMOVING)),
            labels: summary.labels.unwrap_or_default(),
        }
    }
}

impl Engine {
    /// The one at this address, or that of `DOCKER_HOST`, or the one of this host.
    pub(super) fn new(host: Option<&str>) -> Self {
        let host = host.map(str::to_owned).or_else(|| std::env::var(HOST_VARIABLE).ok());
        Self { host: host.unwrap_or_else(|| DEFAULT_HOST.to_owned()), connected: OnceCell::new() }
    }

    /// Its address.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// All containers with these labels, those that have ended among them.
    pub(super) async fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<Container>, Error> {
        let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = Some(HashMap::from([("label".to_owned(), labels)]));
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        let listed = self.docker().await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|source| self.refused("list its containers", source))?;
        Ok(listed.into_iter().map(Container::from).collect())
    }

    /// Makes a container and starts it. One that cannot be started is taken away again.
    pub(super) async fn run(&self, name: &str, container: ContainerCreateBody) -> Result<(), Error> {
        let docker = self.docker().await?;
        let image = container.image.clone().unwrap_or_default();
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        let created = docker.create_container(Some(options), container).await.map_err(|source| match source {
            EngineError::DockerResponseServerError { status_code: 404, .. } => {
                Error::NoImage { host: self.host.clone(), image, source: Box::new(source) }
            }
            source => self.refused(&format!("make container `{name}`"), source),
        })?;
        let started = docker.start_container(&created.id, None::<StartContainerOptions>).await;
        if let Err(source) = started {
            let error = self.refused(&format!("start container `{name}`"), source);
            // That it could not be started is what is to be told.
            let _ = self.remove(&created.id).await;
            return Err(error);
        }
        Ok(())
    }

    /// Sees to it that a container that has ended is not started again.
    pub(super) async fn keep_down(&self, id: &str) -> Result<(), Error> {
        let never = RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None };
        let update = ContainerUpdateBody { restart_policy: Some(never), ..ContainerUpdateBody::default() };
        let updated = self.docker().await?.update_container(id, update).await;
        self.unless_gone(updated, &format!("change container `{id}`"))
    }

    /// Ends a container if it still runs, and takes it away.
    pub(super) async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = self.docker().await?.remove_container(id, Some(options)).await;
        self.unless_gone(removed, &format!("remove container `{id}`"))
    }

    fn unless_gone(&self, done: Result<(), EngineError>, what: &str) -> Result<(), Error> {
        match done {
            Ok(()) => Ok(()),
            // It is not there, or somebody else is about to remove it.
            Err(EngineError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(source) => Err(self.refused(what, source)),
        }
    }

    fn refused(&self, what: &str, source: EngineError) -> Error {
        let host = self.host.clone();
        match source {
            EngineError::DockerResponseServerError { .. } => {
                Error::Refused { host, what: what.to_owned(), source: Box::new(source) }
            }
            source => Error::Unreached { host, source: Box::new(source) },
        }
    }

    async fn docker(&self) -> Result<&Docker, Error> {
        self.connected.get_or_try_init(|| self.connect()).await
    }

    /// An older Engine answers only who speaks as it does.
    async fn connect(&self) -> Result<Docker, Error> {
        shared::connect::choose_cryptography();
        let unreached = |source| Error::Unreached { host: self.host.clone(), source: Box::new(source) };
        let docker = Docker::connect_with_host(&self.host).map_err(unreached)?.with_timeout(TIMEOUT);
        docker.negotiate_version().await.map_err(unreached)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse as _, Response};
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    /// Poses as an Engine, and keeps what it is asked to change.
    #[derive(Clone, Default)]
    pub(crate) struct FakeEngine(Arc<Mutex<Asked>>);

    #[derive(Default)]
    struct Asked {
        containers: Vec<Value>,
        changes: Vec<(String, Value)>,
        /// Begins a path that is answered with this status.
        refuses: Option<(&'static str, u16)>,
    }

    impl FakeEngine {
        /// An Engine with these containers: labels, state, and seconds since 1970 when each was made.
        pub(crate) fn with(containers: &[(&str, Value, &str, i64)]) -> Self {
            let container = |(id, labels, state, created): &(&str, Value, &str, i64)| json!({ "Id": id, "Labels": labels, "State": state, "Created": created });
            let engine = Self::default();
            engine.0.lock().unwrap().containers = containers.iter().map(container).collect();
            engine
        }

        pub(crate) fn refuse(&self, path: &'static str, status: u16) {
            self.0.lock().unwrap().refuses = Some((path, status));
        }

        /// Its address, over TCP.
        pub(crate) async fn listen(&self) -> String {
            let app = axum::Router::new().fallback(answer).with_state(self.clone());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            format!("tcp://{address}")
        }

        pub(crate) fn changes(&self) -> Vec<(String, Value)> {
            std::mem::take(&mut self.0.lock().unwrap().changes)
        }
    }

    async fn answer(State(engine): State<FakeEngine>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        // It speaks an old version, which is said in front of each path once that is known.
        let uri = parts.uri.to_string();
        let path = uri.strip_prefix("/v1.41").unwrap_or(&uri).to_owned();
        if path.starts_with("/v1.53/version") || path == "/version" {
            return axum::Json(json!({ "ApiVersion": "1.41" })).into_response();
        }
        let mut asked = engine.0.lock().unwrap();
        if parts.method != Method::GET {
            asked.changes.push((format!("{} {path}", parts.method), body));
        }
        if let Some((refused, status)) = asked.refuses
            && path.starts_with(refused)
        {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, axum::Json(json!({ "message": "no room" }))).into_response();
        }
        if path.starts_with("/containers/json") {
            return axum::Json(&asked.containers).into_response();
        }
        if path.starts_with("/containers/create") {
            let id = format!("new-{}", asked.changes.len());
            return (StatusCode::CREATED, axum::Json(json!({ "Id": id, "Warnings": [] }))).into_response();
        }
        if path.ends_with("/update") {
            return axum::Json(json!({ "Warnings": [] })).into_response();
        }
        StatusCode::NO_CONTENT.into_response()
    }

    #[tokio::test]
    async fn an_engine_is_reached_by_its_socket_too() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let fake = FakeEngine::with(&[("a", json!({ "x": "1" }), "exited", 5)]);
        let app = axum::Router::new().fallback(answer).with_state(fake);
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });

        let engine = Engine::new(Some(&format!("unix://{}", socket.display())));
        let containers = engine.containers(&[("x", "1")]).await.unwrap();

        assert_eq!((containers[0].label("x"), containers[0].created, containers[0].has_ended), (Some("1"), 5, true));
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_with_its_address() {
        for host in ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"] {
            let error = Engine::new(Some(host)).containers(&[]).await.unwrap_err();

            assert!(matches!(&error, Error::Unreached { host: told, .. } if told == host), "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_is_gone_need_not_be_removed() {
        let fake = FakeEngine::default();
        let engine = Engine::new(Some(&fake.listen().await));

        fake.refuse("/containers/", 404);
        engine.remove("a").await.unwrap();
        engine.keep_down("a").await.unwrap();
        fake.refuse("/containers/", 500);
        let error = engine.remove("a").await.unwrap_err();

        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }

    #[test]
    fn an_address_must_be_one() {
        assert_eq!(problem_with_host(None), None);
        assert_eq!(problem_with_host(Some("tcp://127.0.0.1:2375")), None);
        assert!(problem_with_host(Some("/var/run/docker.sock")).unwrap().contains("unix://"));
    }
}

//! Who may ask for which path.

use axum::http::Method;

use crate::api::{Role, table};

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody: it tells nothing, or proves by itself who asks.
    Open,
    /// Anybody while the coordinator listens on loopback, or else who may read.
    OpenOnLoopback,
    /// Who has this role, or one above it.
    For(Role),
}

/// Paths with a rule of their own, by method and path as the router has it. Whoever merges in a router that has others
/// names them here.
const RULES: [(&str, &str, Access); 8] = [
    ("GET", "/healthz", Access::Open),
    ("GET", "/readyz", Access::Open),
    ("GET", "/login", Access::Open),
    ("POST", "/login", Access::Open),
    ("POST", "/logout", Access::Open),
    ("GET", "/metrics", Access::OpenOnLoopback),
    // Who asks proves who they are by a signature.
    ("POST", "/v1/hooks/{name}", Access::Open),
    // A task whose body is the request's.
    ("POST", "/v1/tasks/{id}", Access::For(Role::Submit)),
];

impl Access {
    /// Who may ask for a path: what `RULES` and the table of operations say, and otherwise who may read for what is only
    /// looked at, and who may operate for what changes something.
    pub fn of(method: &Method, path: Option<&str>) -> Self {
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        if let Some((_, _, access)) = RULES.iter().find(|(named, at, _)| method == *named && path == Some(*at)) {
            return *access;
        }
        let is_it = |route: &crate::api::Route| route.method == method && path == Some(route.path);
        match table().iter().find(|operation| operation.routes.iter().any(is_it)) {
            Some(operation) => Access::For(operation.role),
            None if method == Method::GET => Access::For(Role::Read),
            None => Access::For(Role::Operate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_for_who_has_the_role_of_its_operation() {
        let role = |method: Method, path| Access::of(&method, Some(path));

        assert_eq!(role(Method::GET, "/v1/agents"), Access::For(Role::Read));
        assert_eq!(role(Method::HEAD, "/v1/agents"), Access::For(Role::Read));
        assert_eq!(role(Method::POST, "/v1/tasks"), Access::For(Role::Submit));
        assert_eq!(role(Method::POST, "/v1/agents/{id}/drain"), Access::For(Role::Operate));
        assert_eq!(role(Method::PATCH, "/v1/queues/{id}"), Access::For(Role::Admin));
        assert_eq!(role(Method::GET, "/healthz"), Access::Open);
    }

    #[test]
    fn what_nobody_has_said_anything_of_is_not_open() {
        assert_eq!(Access::of(&Method::GET, Some("/")), Access::For(Role::Read));
        assert_eq!(Access::of(&Method::POST, Some("/")), Access::For(Role::Operate));
        assert_eq!(Access::of(&Method::GET, None), Access::For(Role::Read));
    }
}

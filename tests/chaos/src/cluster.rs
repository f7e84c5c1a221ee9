//! Three nats-servers that are one.

use std::net::{Ipv4Addr, TcpListener};

use coordinator::local::{Broker, Options};

use crate::world::{Starting, beside};

/// Prepares the settings of a mesh for a cluster of so many servers, of which the mesh's own is the first. The others
/// are to be started along with it: none answers before most of them are there.
pub(crate) async fn start_others(options: &mut Options, servers: usize) -> anyhow::Result<Option<Starting>> {
    let mut ports = free_ports(servers * 2)?;
    let routes = ports.split_off(servers);
    let all_routes: Vec<String> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
    let settings = |index: usize| {
        let (own, all) = (routes[index], all_routes.join(", "));
        // The servers do not name each other to clients, who would go to the last one too when they reconnect.
        format!("cluster {{ name: chaos, listen: \"127.0.0.1:{own}\", no_advertise: true, routes: [{all}] }}")
    };
    let mut others = Vec::new();
    for (index, port) in ports.iter().enumerate().skip(1) {
        let mut other = beside(&options.broker, options.data_dir.join(format!("broker-{index}")));
        other.port = Some(*port);
        other.server_name = format!("n{index}");
        other.extra_config = settings(index);
        others.push(other);
    }
    options.broker.port = Some(ports[0]);
    options.broker.server_name = "n0".to_owned();
    options.broker.extra_config = settings(0);
    // Nobody of the mesh is connected to the last one: what is done to it is done to the streams alone.
    let urls: Vec<String> = ports[..servers - 1].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    options.nats_url = Some(urls.join(","));
    let launcher = options.launcher.clone();
    Ok(Some(Box::pin(async move {
        let starting = others.into_iter().map(|options| {
            let launcher = launcher.clone();
            async move { Broker::start(&launcher, options).await }
        });
        let started = futures_util::future::join_all(starting).await;
        Ok(started.into_iter().collect::<Result<Vec<_>, _>>()?)
    })))
}

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

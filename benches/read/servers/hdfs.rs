//! Hadoop's daemons, and who reads them: `hdfs-native` as it is, and Hadoop's own client.
//!
//! A DataNode registers by the name of an address where the wire listens at the same port, so that who goes by names
//! (`dfs.client.use.datanode.hostname`) goes over the wire, and who goes by addresses does not.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use hdfs_native::file::FileReader;
use hdfs_native::{ClientBuilder, WriteOptions};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use millrace::auth::Credential;
use millrace::backend;
use millrace::backend::hdfs::Config;
use millrace::sandbox::computed;
use millrace::sandbox::hadoop::Hadoop;
use millrace::sandbox::requirement::program;
use serde::Deserialize;

use super::peers::{Call, Peer};
use super::relay::{Link, Requests};
use super::wire::Relay;
use super::{FileServer, Folder, PACE};
use crate::dataset::Object;
use crate::mounted::Volume;
use crate::raw::Client;
use crate::workload::{MIB, Unit, Workload};

/// Blocks read at once by everybody who may choose, and small files.
const CONNECTIONS: u32 = 4;
const AT_ONCE: u32 = 16;
/// Whom all is read as, and where it lies.
const USER: &str = "alice";
const HOME: &str = "user/alice";
/// What Hadoop takes for a block where nobody says.
const BLOCK: u64 = 128 * MIB;
/// The word by which a client goes to DataNodes by name.
const BY_NAME: &str = "dfs.client.use.datanode.hostname";
/// No client reads this machine's own configuration.
const NO_CONFIGURATION: &str = "/proc/self/no-hadoop-configuration";

pub(super) struct Lake {
    cluster: Hadoop,
    relay: Relay,
}

/// Where the wire listens for the name node; for DataNode number i it is 127.0.1.(i+1).
const NAME_NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 100);

impl Lake {
    /// `None` where this machine has no Hadoop.
    pub(super) async fn start() -> Result<Option<Lake>> {
        let block = BLOCK.to_string();
        let words = [
            ("datanodes", "3"),
            ("hosts", "127.0.1.1,127.0.1.2,127.0.1.3"),
            ("blocksize", &block),
            ("conf", "dfs.namenode.file.close.num-committed-allowed=1"),
        ];
        let Some(cluster) = Hadoop::start(&words).await? else { return Ok(None) };
        let link = |from, to: &str| {
            anyhow::Ok(Link { from, to: to.parse().with_context(|| to.to_owned())?, requests: Requests::Turns })
        };
        let any = SocketAddrV4::new(NAME_NODE, 0);
        let web = cluster.webhdfs().trim_start_matches("http://").to_owned();
        let mut links = vec![link(any, cluster.namenode())?, link(any, &web)?];
        for (name, node) in data_nodes(cluster.webhdfs()).await? {
            let host = name.rsplit_once(':').context("a DataNode without a port")?.0.parse()?;
            for address in [&node.transfer, &node.web] {
                let port = address.rsplit_once(':').context("a DataNode without a port")?.1.parse()?;
                links.push(link(SocketAddrV4::new(host, port), address)?);
            }
        }
        ensure!(links.len() == 8, "not all DataNodes are known");
        let relay = Relay::start(links, PACE)?;
        Ok(Some(Lake { cluster, relay }))
    }

    /// Where a name node listens, and its WebHDFS.
    fn name_node(&self, direct: bool) -> (String, String) {
        match direct {
            true => (self.cluster.namenode().to_owned(), self.cluster.webhdfs().to_owned()),
            false => (self.relay.at[0].to_string(), format!("http://{}", self.relay.at[1])),
        }
    }

    fn library(&self, name_node: &str, by_name: bool) -> Result<hdfs_native::Client> {
        let words = [(BY_NAME, by_name.to_string())];
        let builder = ClientBuilder::new().with_url(format!("hdfs://{name_node}")).with_user(USER);
        Ok(builder.with_config_dir(NO_CONFIGURATION).with_config(words).build()?)
    }
}

#[async_trait]
impl FileServer for Lake {
    fn relay(&self) -> &Relay {
        &self.relay
    }

    fn workloads(&self) -> Vec<Workload> {
        crate::workload::of_a_file_server(CONNECTIONS, AT_ONCE)
    }

    fn at_once(&self, workload: &Workload) -> u32 {
        match workload.unit {
            Unit::FilesPerSecond | Unit::MegabytesPerSecond => workload.connections,
            Unit::Milliseconds => 1,
        }
    }

    async fn lay_out(&self, folder: &Folder) -> Result<()> {
        // Its calls come from the wire's address, so that no DataNode is beside the writer and gets all blocks.
        let client = self.library(&self.name_node(false).0, false)?;
        let write = |object: &Object| {
            let (client, object) = (client.clone(), object.clone());
            let path = format!("/{HOME}/{}/{}", folder.name, object.name);
            async move {
                let mut file = client.create(&path, WriteOptions::default()).await?;
                for at in (0..object.size).step_by(MIB as usize) {
                    let length = MIB.min(object.size - at) as usize;
                    Box::pin(file.write_bytes(computed::bytes(object.seed, at, length))).await?;
                }
                anyhow::Ok(Box::pin(file.close()).await?)
            }
        };
        stream::iter(folder.objects.iter().map(write)).buffer_unordered(AT_ONCE as usize).try_collect().await
    }

    fn volume(&self, folder: &str, connections: u32, direct: bool) -> Result<Volume> {
        let (name_node, web) = self.name_node(direct);
        let options = BTreeMap::from([(BY_NAME.to_owned(), (!direct).to_string())]);
        Ok(Volume {
            backend: backend::Config::Hdfs(Config { connections, options, ..Config::at(&name_node, &web) }),
            path: format!("{HOME}/{folder}"),
            credential: Credential::Hadoop { user: USER.into() },
        })
    }

    async fn client(&self, workload: &Workload, _foresight: bool) -> Result<Arc<dyn Client>> {
        let client = self.library(&self.name_node(workload.direct).0, !workload.direct)?;
        Ok(Arc::new(Library { client, folder: format!("/{HOME}/{}", workload.name), open: Mutex::default() }))
    }

    fn peers(&self, workload: &Workload) -> Vec<Peer> {
        let name_node = self.name_node(workload.direct).0;
        let call = |objects: Vec<usize>| {
            let by_name = format!("{BY_NAME}={}", !workload.direct);
            let mut words = vec!["-D".into(), by_name, "-fs".into(), format!("hdfs://{name_node}"), "-cat".into()];
            let path = |at: &usize| format!("/{HOME}/{}/{}", workload.name, workload.objects[*at].name);
            words.extend(objects.iter().map(path));
            vec![Call { words, objects }]
        };
        let lanes = super::peers::dealt(workload, CONNECTIONS, call);
        let program = program("MILLRACE_HADOOP_FS", "millrace-hadoop-fs");
        vec![Peer { name: "FsShell -cat", program, environment: vec![("HADOOP_USER_NAME", USER)], lanes }]
    }
}

/// Where a DataNode listens.
#[derive(Deserialize)]
struct DataNode {
    #[serde(rename = "xferaddr")]
    transfer: String,
    #[serde(rename = "infoAddr")]
    web: String,
}

#[derive(Deserialize)]
struct Told {
    beans: Vec<Bean>,
}

#[derive(Deserialize)]
struct Bean {
    #[serde(rename = "LiveNodes")]
    live_nodes: String,
}

/// The DataNodes, by the `host:port` that they registered by.
async fn data_nodes(web: &str) -> Result<HashMap<String, DataNode>> {
    let address = format!("{web}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo");
    let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(address.parse()?).await?.into_body().collect().await?.to_bytes();
    let told: Told = serde_json::from_slice(&answer).context("the name node does not tell its DataNodes")?;
    let bean = told.beans.first().context("the name node does not tell its DataNodes")?;
    Ok(serde_json::from_str(&bean.live_nodes)?)
}

/// The library. A file is opened once.
struct Library {
    client: hdfs_native::Client,
    folder: String,
    open: Mutex<HashMap<String, Arc<FileReader>>>,
}

#[async_trait]
impl Client for Library {
    async fn get(&self, name: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open().get(name).cloned();
        let reader = match known {
            Some(reader) => reader,
            None => {
                let reader = Arc::new(self.client.read(&format!("{}/{name}", self.folder)).await?);
                open().entry(name.to_owned()).or_insert(reader).clone()
            }
        };
        let (from, length) = (usize::try_from(range.start)?, usize::try_from(range.end - range.start)?);
        Ok(reader.read_range_stream(from, length).map_err(Into::into).boxed())
    }
}

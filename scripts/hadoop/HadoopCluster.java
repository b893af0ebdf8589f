// A real HDFS in one process, on loopback unless told otherwise: a NameNode, DataNodes, and where asked for a KDC. Every port is
// free unless told otherwise, and told in one line "READY {json}". It ends, and removes what it wrote, when its standard input ends: so none outlives who started it.
//
// Words are system properties, -Dmr.WORD=VALUE; a list is joined by commas:
//   dir          where everything is kept; must not exist                          (needed)
//   datanodes    how many                                                          (3)
//   replication  of files whose writer does not say                                (1)
//   blocksize    of files whose writer does not say, in bytes                      (1048576)
//   racks        one for each DataNode, the last for all others                    (/rack1,/rack1,/rack2)
//   hosts        the names that they register by                                   (their addresses)
//   users        user=group,group;user=...: who is in which groups; each has a home (alice=users;bob=users;carol=staff)
//   address      where all of it listens, but for what tests ask it to do              (127.0.0.1, and see below for DataNodes)
//   ports        of the NameNode's RPC and HTTP                                    (free ones)
//   kerberos     true: everybody needs a ticket; USER.keytab lie in dir/kdc        (false)
//   protection   of data and of calls, under Kerberos                              (authentication)
//   conf         key=value;key=value: more of Hadoop's own words
//
// Or a pair of NameNodes and their DataNodes, each in a process of its own with these words, too; edits lie beside the dirs:
//   role         node: one of the two, as a standby; data: the DataNodes          (all of it in one process)
//   pair         RPC:HTTP,RPC:HTTP: the ports of both
//   i            which of the two it is; its dir may be there from before          (0)
//   first        the dir of the other, where both are to be made                   ()
//
// DataNode number i listens at 127.0.0.(i+1) unless there is an address, and comes to the NameNode from there.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.lang.reflect.Field;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.security.PrivilegedExceptionAction;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.stream.Stream;
import javax.net.SocketFactory;
import org.apache.hadoop.conf.Configurable;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.SafeModeAction;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.ha.HAServiceProtocol.RequestSource;
import org.apache.hadoop.ha.HAServiceProtocol.StateChangeRequestInfo;
import org.apache.hadoop.hdfs.DistributedFileSystem;
import org.apache.hadoop.hdfs.protocol.HdfsConstants;
import org.apache.hadoop.hdfs.server.datanode.DataNode;
import org.apache.hadoop.hdfs.server.datanode.metrics.DataNodeMetrics;
import org.apache.hadoop.hdfs.server.namenode.NameNode;
import org.apache.hadoop.metrics2.lib.DefaultMetricsSystem;
import org.apache.hadoop.metrics2.lib.MutableCounterLong;
import org.apache.hadoop.minikdc.MiniKdc;
import org.apache.hadoop.net.DNSToSwitchMapping;
import org.apache.hadoop.security.Credentials;
import org.apache.hadoop.security.Groups;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.hadoop.security.token.Token;
import org.apache.kerby.kerberos.kerb.server.SimpleKdcServer;

public class HadoopCluster {
  /** Racks by host name. */
  public static class Racks implements DNSToSwitchMapping {
    static final Map<String, String> RACKS = new ConcurrentHashMap<>();

    public List<String> resolve(List<String> names) {
      List<String> racks = new ArrayList<>();
      for (String name : names) racks.add(RACKS.getOrDefault(name, "/default-rack"));
      return racks;
    }

    public void reloadCachedMappings() {}

    public void reloadCachedMappings(List<String> names) {}
  }

  /** Has a DataNode's calls leave from its own address, which is what the NameNode then knows of it. */
  public static class BoundSockets extends SocketFactory implements Configurable {
    private Configuration conf;

    public void setConf(Configuration conf) {
      this.conf = conf;
    }

    public Configuration getConf() {
      return conf;
    }

    private String address() {
      return conf == null ? "" : conf.get("mr.bind", "");
    }

    public Socket createSocket() throws IOException {
      Socket socket =
          new Socket() {
            @Override
            public void bind(SocketAddress to) throws IOException {
              if (!isBound()) super.bind(to);
            }
          };
      if (!address().isEmpty()) socket.bind(new InetSocketAddress(address(), 0));
      return socket;
    }

    public Socket createSocket(InetAddress host, int port) throws IOException {
      Socket socket = createSocket();
      socket.connect(new InetSocketAddress(host, port));
      return socket;
    }

    public Socket createSocket(InetAddress host, int port, InetAddress from, int fromPort) throws IOException {
      return createSocket(host, port);
    }

    public Socket createSocket(String host, int port) throws IOException {
      return createSocket(InetAddress.getByName(host), port);
    }

    public Socket createSocket(String host, int port, InetAddress from, int fromPort) throws IOException {
      return createSocket(host, port);
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof BoundSockets && ((BoundSockets) other).address().equals(address());
    }

    @Override
    public int hashCode() {
      return address().hashCode();
    }
  }

  static DataNode[] dataNodes;
  static Configuration[] dataNodeConfs;
  static NameNode nameNode;
  static Configuration conf;
  static MiniKdc kdc;
  static final Map<String, FSDataOutputStream> WRITERS = new ConcurrentHashMap<>();

  static String word(String name, String otherwise) {
    return System.getProperty("mr." + name, otherwise);
  }

  static String[] list(String name, String otherwise) {
    String words = word(name, otherwise);
    return words.isEmpty() ? new String[0] : words.split(",");
  }

  static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"))) {
      return socket.getLocalPort();
    }
  }

  public static void main(String[] arguments) throws Exception {
    File dir = new File(word("dir", null)).getAbsoluteFile();
    boolean kerberos = Boolean.parseBoolean(word("kerberos", "false"));
    int count = Integer.parseInt(word("datanodes", "3"));
    String users = word("users", "alice=users;bob=users;carol=staff");
    String role = word("role", "");
    if (!dir.mkdirs() && !role.equals("node")) throw new IOException(dir + " is there already");
    DefaultMetricsSystem.setMiniClusterMode(true);
    conf = new Configuration();
    String host = kerberos ? "localhost" : word("address", "127.0.0.1");
    String[] ports = list("ports", freePort() + ",0");
    String address = host + ":" + ports[0];
    conf.set("fs.defaultFS", "hdfs://" + address);
    conf.set("hadoop.tmp.dir", dir + "/tmp");
    conf.set("dfs.namenode.name.dir", "file://" + dir + "/nn");
    conf.set("dfs.namenode.rpc-address", address);
    String listens = word("address", "127.0.0.1");
    conf.set("dfs.namenode.rpc-bind-host", listens);
    conf.set("dfs.namenode.http-address", listens + ":" + ports[1]);
    conf.set("dfs.blocksize", word("blocksize", "1048576"));
    conf.set("dfs.namenode.fs-limits.min-block-size", "4096");
    conf.set("dfs.replication", word("replication", "1"));
    conf.set("dfs.namenode.acls.enabled", "true");
    conf.set("dfs.namenode.datanode.registration.ip-hostname-check", "false");
    conf.set("dfs.namenode.safemode.extension", "0");
    conf.set("dfs.heartbeat.interval", "1");
    conf.set("dfs.namenode.stale.datanode.interval", "6000");
    conf.set("dfs.namenode.heartbeat.recheck-interval", "1000");
    conf.set("dfs.namenode.edits.noeditlogchannelflush", "true");
    conf.set("dfs.client.block.write.replace-datanode-on-failure.policy", "NEVER");
    conf.set("dfs.namenode.handler.count", "8");
    conf.set("dfs.namenode.delegation.token.always-use", "true");
    conf.set("hadoop.http.authentication.signature.secret.file", "/dev/null");
    conf.set("hadoop.user.group.static.mapping.overrides", users);
    conf.setClass("net.topology.node.switch.mapping.impl", Racks.class, DNSToSwitchMapping.class);
    for (String pair : word("conf", "").split(";")) {
      if (pair.contains("=")) conf.set(pair.substring(0, pair.indexOf('=')), pair.substring(pair.indexOf('=') + 1));
    }
    if (!role.isEmpty()) inPair(dir, role);
    String more = kerberos ? startKdc(dir, users) : "";
    // Before the NameNode asks: the table of groups is read once.
    UserGroupInformation.setConfiguration(conf);
    Groups.getUserToGroupsMappingServiceWithLoadedConfiguration(conf);
    if (role.isEmpty()) NameNode.format(new Configuration(conf));
    if (!word("first", "").isEmpty()) {
      NameNode.format(new Configuration(conf));
      copy(new File(dir, "nn"), new File(word("first", null), "nn"));
    }
    if (!role.equals("data")) nameNode = new NameNode(new Configuration(conf));
    if (!role.equals("node")) {
      startDataNodes(dir, count);
      makeHomes(users);
    }
    if (!role.isEmpty()) address = conf.get("fs.defaultFS");
    int http = nameNode == null ? 0 : nameNode.getHttpAddress().getPort();

    HttpServer control = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    control.createContext("/", HadoopCluster::control);
    control.setExecutor(Executors.newCachedThreadPool());
    control.start();
    System.out.println(
        String.format(
            "READY {\"pid\":%d,\"namenode\":\"%s\",\"webhdfs\":\"http://%s:%d\",\"control\":\"http://127.0.0.1:%d\",\"superuser\":\"%s\"%s}",
            ProcessHandle.current().pid(), address, host, http,
            control.getAddress().getPort(), UserGroupInformation.getLoginUser().getShortUserName(), more));
    System.out.flush();
    while (System.in.read() >= 0) {}
    try (Stream<java.nio.file.Path> all = Files.walk(dir.toPath())) {
      all.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
    }
    Runtime.getRuntime().halt(0);
  }

  /** One of a pair of NameNodes, or what knows both. */
  static void inPair(File dir, String role) {
    conf.set("fs.defaultFS", "hdfs://pair");
    conf.set("dfs.nameservices", "pair");
    conf.set("dfs.ha.namenodes.pair", "n0,n1");
    conf.set("dfs.namenode.shared.edits.dir", "file://" + dir.getParent() + "/edits");
    conf.set("dfs.ha.tail-edits.period", "1");
    conf.set(
        "dfs.client.failover.proxy.provider.pair",
        "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider");
    String[] nodes = list("pair", "");
    for (int i = 0; i < nodes.length; i++) {
      String[] ports = nodes[i].split(":");
      conf.set("dfs.namenode.rpc-address.pair.n" + i, "127.0.0.1:" + ports[0]);
      conf.set("dfs.namenode.http-address.pair.n" + i, "127.0.0.1:" + ports[1]);
    }
    conf.unset("dfs.namenode.rpc-address");
    conf.unset("dfs.namenode.http-address");
    if (role.equals("node")) conf.set("dfs.ha.namenode.id", "n" + word("i", "0"));
  }

  static void copy(File from, File to) throws IOException {
    try (Stream<java.nio.file.Path> all = Files.walk(from.toPath())) {
      for (java.nio.file.Path file : (Iterable<java.nio.file.Path>) all::iterator) {
        java.nio.file.Path target = to.toPath().resolve(from.toPath().relativize(file));
        if (Files.isDirectory(file)) Files.createDirectories(target);
        else Files.copy(file, target);
      }
    }
  }

  /** Starts a KDC with a keytab for every user, and has the cluster ask for tickets. */
  static String startKdc(File dir, String users) throws Exception {
    File home = new File(dir, "kdc");
    home.mkdirs();
    Properties words = MiniKdc.createConf();
    words.setProperty("kdc.port", "" + freePort());
    words.setProperty("org.name", "MILLRACE");
    words.setProperty("org.domain", "TEST");
    words.setProperty("transport", "TCP");
    // In seconds: clients ask for as little as they like.
    words.setProperty("min.ticket.lifetime", "1");
    kdc = new MiniKdc(words, home);
    kdc.start();
    File service = new File(home, "nn.keytab");
    kdc.createPrincipal(service, "nn/localhost", "HTTP/localhost", "HTTP/127.0.0.1");
    for (String user : users.split(";")) {
      String name = user.split("=")[0];
      kdc.createPrincipal(new File(home, name + ".keytab"), name);
    }
    String realm = kdc.getRealm();
    conf.set("hadoop.security.authentication", "kerberos");
    conf.set("hadoop.security.authorization", "true");
    conf.set("hadoop.security.auth_to_local", "RULE:[2:$1](nn)s/nn/hdfs/\nDEFAULT");
    conf.set("hadoop.rpc.protection", word("protection", "authentication"));
    conf.set("dfs.data.transfer.protection", word("protection", "authentication"));
    conf.set("dfs.block.access.token.enable", "true");
    conf.set("dfs.http.policy", "HTTP_ONLY");
    // The control's clients are the superuser's, in the name of others.
    conf.set("hadoop.proxyuser.hdfs.hosts", "*");
    conf.set("hadoop.proxyuser.hdfs.groups", "*");
    File secret = new File(home, "http.secret");
    Files.writeString(secret.toPath(), UUID.randomUUID().toString());
    conf.set("hadoop.http.authentication.signature.secret.file", secret.getPath());
    conf.set("ignore.secure.ports.for.testing", "true");
    for (String role : new String[] {"namenode", "datanode"}) {
      conf.set("dfs." + role + ".keytab.file", service.getPath());
      conf.set("dfs." + role + ".kerberos.principal", "nn/localhost@" + realm);
    }
    conf.set("dfs.namenode.kerberos.internal.spnego.principal", "HTTP/localhost@" + realm);
    conf.set("dfs.web.authentication.kerberos.principal", "HTTP/localhost@" + realm);
    conf.set("dfs.web.authentication.kerberos.keytab", service.getPath());
    // Without this WebHDFS believes ?user.name= all the same.
    conf.set("hadoop.http.filter.initializers", "org.apache.hadoop.security.AuthenticationFilterInitializer");
    conf.set("hadoop.http.authentication.type", "kerberos");
    conf.set("hadoop.http.authentication.kerberos.principal", "HTTP/localhost@" + realm);
    conf.set("hadoop.http.authentication.kerberos.keytab", service.getPath());
    return String.format(
        ",\"kerberos\":{\"realm\":\"%s\",\"kdc\":\"%s:%d\",\"keytabs\":\"%s\"}",
        realm, kdc.getHost(), kdc.getPort(), home.getPath());
  }

  /** A user as the KDC knows him. */
  static UserGroupInformation login(String user) throws IOException {
    File keytab = new File(conf.get("dfs.namenode.keytab.file")).toPath().resolveSibling(user + ".keytab").toFile();
    return UserGroupInformation.loginUserFromKeytabAndReturnUGI(user, keytab.getPath());
  }

  /** Gives a user other keys, and a keytab of them in place of the one that is there. */
  static void rotate(String user) throws Exception {
    Field field = MiniKdc.class.getDeclaredField("simpleKdc");
    field.setAccessible(true);
    SimpleKdcServer server = (SimpleKdcServer) field.get(kdc);
    File keytab = new File(conf.get("dfs.namenode.keytab.file")).toPath().resolveSibling(user + ".keytab").toFile();
    keytab.delete();
    server.deletePrincipal(user);
    server.createAndExportPrincipals(keytab, user);
  }

  static void startDataNodes(File dir, int count) throws Exception {
    dataNodes = new DataNode[count];
    dataNodeConfs = new Configuration[count];
    String[] racks = list("racks", "/rack1,/rack1,/rack2"), hosts = list("hosts", "");
    for (int i = 0; i < count; i++) {
      Configuration own = new Configuration(conf);
      String ip = word("address", "127.0.0." + (i + 1)), host = i < hosts.length ? hosts[i] : ip;
      Racks.RACKS.put(host, racks[Math.min(i, racks.length - 1)]);
      own.set("dfs.datanode.data.dir", "file://" + dir + "/dn" + i);
      own.set("dfs.datanode.hostname", host);
      own.set("mr.bind", ip);
      // Under the default word it would also serve the DataNode's own client, which cannot read through such sockets.
      own.set("hadoop.rpc.socket.factory.class.DatanodeProtocolPB", BoundSockets.class.getName());
      for (String port : new String[] {"address", "http.address", "ipc.address"}) own.set("dfs.datanode." + port, ip + ":0");
      dataNodeConfs[i] = own;
      startDataNode(i);
    }
    waitLive(count);
  }

  static void startDataNode(int i) throws IOException {
    dataNodes[i] = DataNode.createDataNode(new String[0], new Configuration(dataNodeConfs[i]));
  }

  static long counted(int i, String what) throws ReflectiveOperationException {
    Field field = DataNodeMetrics.class.getDeclaredField(what);
    field.setAccessible(true);
    return ((MutableCounterLong) field.get(dataNodes[i].getMetrics())).value();
  }

  static void waitLive(int count) throws Exception {
    for (int i = 0; i < 1200; i++) {
      if (nameNode == null) {
        boolean started = true;
        for (DataNode dataNode : dataNodes) started &= dataNode.isDatanodeFullyStarted();
        if (started) return;
        Thread.sleep(50);
        continue;
      }
      if (nameNode.getNamesystem().getNumLiveDataNodes() >= count && !nameNode.isInSafeMode()) return;
      Thread.sleep(50);
    }
    throw new IOException("not all of " + count + " DataNodes came");
  }

  static void makeHomes(String users) throws IOException {
    try (DistributedFileSystem fs = superuser()) {
      fs.setPermission(new Path("/"), new FsPermission((short) 0755));
      fs.mkdirs(new Path("/tmp"));
      fs.setPermission(new Path("/tmp"), new FsPermission((short) 01777));
      for (String user : users.split(";")) {
        String[] name = user.split("=");
        Path home = new Path("/user/" + name[0]);
        fs.mkdirs(home);
        fs.setOwner(home, name[0], name[1].split(",")[0]);
        fs.setPermission(home, new FsPermission((short) 0750));
      }
    }
  }

  static DistributedFileSystem superuser() throws IOException {
    return (DistributedFileSystem) FileSystem.newInstance(conf);
  }

  /** Hadoop's own client, as that user, or as the superuser where none is named. */
  static FileSystem client(String user) throws Exception {
    if (user == null) return superuser();
    UserGroupInformation as =
        UserGroupInformation.isSecurityEnabled()
            ? UserGroupInformation.createProxyUser(user, UserGroupInformation.getLoginUser())
            : UserGroupInformation.createRemoteUser(user);
    return as.doAs((PrivilegedExceptionAction<FileSystem>) () -> FileSystem.newInstance(conf));
  }

  /**
   * What tests do to the cluster, and what they have Hadoop's own client do: /datanode/stop?i= /datanode/start?i= /live
   * /datanode/given?i= (how many reads it has answered, and with how many bytes, those of checksums included)
   * /safemode?on= /quota?path=&names=&space= /policy?path=&name= /put?path=&user= /mkdir?path=&user= /chmod?path=&mode=&user= /get?path=
   * /snapshot?path=&name= /snapshot/delete?path=&name= /hsync?path=&user= /close?path= /symlink?path=&target=&user=
   * /rotate?user= /token?user= /token/cancel?user= /active (whatever the other one of a pair is)
   */
  static void control(HttpExchange exchange) throws IOException {
    Map<String, String> query = new HashMap<>();
    String raw = exchange.getRequestURI().getRawQuery();
    if (raw != null && !raw.isEmpty()) {
      for (String pair : raw.split("&")) {
        int at = pair.indexOf('=');
        query.put(pair.substring(0, at), URLDecoder.decode(pair.substring(at + 1), StandardCharsets.UTF_8));
      }
    }
    byte[] body = exchange.getRequestBody().readAllBytes();
    int status = 200;
    byte[] answer;
    try {
      answer = act(exchange.getRequestURI().getPath(), query, body);
    } catch (Throwable thrown) {
      status = 500;
      answer = thrown.toString().getBytes(StandardCharsets.UTF_8);
    }
    exchange.sendResponseHeaders(status, answer.length == 0 ? -1 : answer.length);
    exchange.getResponseBody().write(answer);
    exchange.close();
  }

  static byte[] act(String what, Map<String, String> query, byte[] body) throws Exception {
    String path = query.get("path"), user = query.get("user");
    int i = Integer.parseInt(query.getOrDefault("i", "0"));
    switch (what) {
      case "/datanode/stop":
        dataNodes[i].shutdown();
        return new byte[0];
      case "/datanode/start":
        startDataNode(i);
        waitLive(dataNodes.length);
        return new byte[0];
      case "/datanode/given":
        return (counted(i, "blocksRead") + " " + counted(i, "bytesRead")).getBytes(StandardCharsets.UTF_8);
      case "/active":
        nameNode.getRpcServer().transitionToActive(
            new StateChangeRequestInfo(RequestSource.REQUEST_BY_USER_FORCED));
        return new byte[0];
      case "/rotate":
        rotate(user);
        return new byte[0];
      case "/token":
        // As `hdfs fetchdt` fetches and writes it, where the user has logged in by a keytab.
        Credentials fetched = new Credentials();
        login(user).doAs((PrivilegedExceptionAction<Void>) () -> {
          try (FileSystem fs = FileSystem.newInstance(conf)) {
            fs.addDelegationTokens(user, fetched);
          }
          return null;
        });
        ByteArrayOutputStream file = new ByteArrayOutputStream();
        fetched.writeTokenStorageToStream(new DataOutputStream(file));
        return file.toByteArray();
      case "/token/cancel":
        Credentials given = new Credentials();
        given.readTokenStorageStream(new DataInputStream(new ByteArrayInputStream(body)));
        login(user).doAs((PrivilegedExceptionAction<Void>) () -> {
          for (Token<?> token : given.getAllTokens()) token.cancel(conf);
          return null;
        });
        return new byte[0];
      case "/live":
        return ("" + nameNode.getNamesystem().getNumLiveDataNodes()).getBytes(StandardCharsets.UTF_8);
      case "/hsync":
        // Plain hsync(): of a block's growth the NameNode hears only the first time.
        FSDataOutputStream writer = WRITERS.get(path);
        if (writer == null) WRITERS.put(path, writer = client(user).create(new Path(path), true));
        writer.write(body);
        writer.hsync();
        return new byte[0];
      case "/close":
        WRITERS.remove(path).close();
        return new byte[0];
      default:
    }
    try (FileSystem fs = client(user)) {
      switch (what) {
        case "/put":
          try (FSDataOutputStream out = fs.create(new Path(path), true)) {
            out.write(body);
          }
          return new byte[0];
        case "/get":
          try (FSDataInputStream in = fs.open(new Path(path))) {
            return in.readAllBytes();
          }
        case "/mkdir":
          fs.mkdirs(new Path(path));
          return new byte[0];
        case "/chmod":
          fs.setPermission(new Path(path), new FsPermission(query.get("mode")));
          return new byte[0];
        case "/symlink":
          // They are switched off in all of this process unless a test wants one.
          FileSystem.enableSymlinks();
          ((DistributedFileSystem) fs).createSymlink(new Path(query.get("target")), new Path(path), false);
          return new byte[0];
        case "/safemode":
          boolean on = Boolean.parseBoolean(query.get("on"));
          ((DistributedFileSystem) fs).setSafeMode(on ? SafeModeAction.ENTER : SafeModeAction.LEAVE);
          return new byte[0];
        case "/quota":
          String none = "" + HdfsConstants.QUOTA_DONT_SET;
          long names = Long.parseLong(query.getOrDefault("names", none));
          long space = Long.parseLong(query.getOrDefault("space", none));
          ((DistributedFileSystem) fs).setQuota(new Path(path), names, space);
          return new byte[0];
        case "/snapshot":
          ((DistributedFileSystem) fs).allowSnapshot(new Path(path));
          fs.createSnapshot(new Path(path), query.get("name"));
          return new byte[0];
        case "/snapshot/delete":
          fs.deleteSnapshot(new Path(path), query.get("name"));
          return new byte[0];
        case "/policy":
          ((DistributedFileSystem) fs).enableErasureCodingPolicy(query.get("name"));
          ((DistributedFileSystem) fs).setErasureCodingPolicy(new Path(path), query.get("name"));
          return new byte[0];
        default:
          throw new IOException("there is no " + what);
      }
    }
  }
}

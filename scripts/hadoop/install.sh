#!/usr/bin/env bash
# Makes FOLDER/bin/millrace-hadoop, which runs HadoopCluster.java of this folder, and millrace-hadoop-fs, Hadoop's own client;
# their jars and classes stay in FOLDER/hadoop. What is there already, made of the same files, is left alone.
# usage: install.sh FOLDER
set -euo pipefail
folder=$1
cd "$(dirname "$0")"
made_of=$(cat install.sh pom.xml HadoopCluster.java log4j.properties | sha256sum | cut -c 1-16)
home=$folder/hadoop/$made_of
if [ ! -e "$home/cluster.jar" ]; then
    rm -rf "$home.part"
    mkdir -p "$home.part/classes" "$folder/bin"
    # Maven works where the project file is.
    cp pom.xml "$home.part"
    mvn -q -B -f "$home.part/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=jars
    # The jars of HDFS lack its web pages, and its servers do not start without their folders.
    for page in hdfs datanode static secondary; do
        mkdir -p "$home.part/classes/webapps/$page/WEB-INF"
        echo '<web-app/>' >"$home.part/classes/webapps/$page/WEB-INF/web.xml"
    done
    cp log4j.properties "$home.part/classes/"
    # Hadoop's own client insists on them.
    for site in core hdfs; do echo '<configuration/>' >"$home.part/classes/$site-site.xml"; done
    javac -nowarn -cp "$home.part/jars/*" -d "$home.part/classes" HadoopCluster.java
    jar cf "$home.part/cluster.jar" -C "$home.part/classes" .
    rm -rf "$home"
    mv "$home.part" "$home"
fi
cat >"$folder/bin/millrace-hadoop.part" <<RUN
#!/usr/bin/env bash
# usage: millrace-hadoop [-Dmr.WORD=VALUE ...]: see HadoopCluster.java
unset HADOOP_USER_NAME HADOOP_CONF_DIR HADOOP_HOME
loaded=()
[ ! -e "$home/loaded.jsa" ] || loaded=(-XX:SharedArchiveFile="$home/loaded.jsa")
exec java -Xlog:disable "\${loaded[@]}" -Xmx512m -Xss512k -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true \\
    --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED \\
    --add-opens=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED \\
    --add-opens=java.base/java.util.concurrent=ALL-UNNAMED \\
    --add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED \\
    --add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED \\
    "\$@" -cp "$home/cluster.jar:$home/jars/*" HadoopCluster
RUN
chmod +x "$folder/bin/millrace-hadoop.part"
mv "$folder/bin/millrace-hadoop.part" "$folder/bin/millrace-hadoop"
cat >"$folder/bin/millrace-hadoop-fs.part" <<RUN
#!/usr/bin/env bash
# usage: millrace-hadoop-fs WORDS: those of "hadoop fs", such as -fs hdfs://HOST:PORT -cat /FILE
unset HADOOP_CONF_DIR HADOOP_HOME
exec java -Xlog:disable -Xmx256m -Djava.net.preferIPv4Stack=true --add-opens=java.base/java.lang=ALL-UNNAMED \\
    --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \\
    -cp "$home/cluster.jar:$home/jars/*" org.apache.hadoop.fs.FsShell "\$@"
RUN
chmod +x "$folder/bin/millrace-hadoop-fs.part"
mv "$folder/bin/millrace-hadoop-fs.part" "$folder/bin/millrace-hadoop-fs"
# What loading its classes takes, half of a start, is kept too, where this Java can: a cluster that starts and ends.
if [ ! -e "$home/loaded.jsa" ]; then
    "$folder/bin/millrace-hadoop" -XX:ArchiveClassesAtExit="$home/loaded.part" -Dmr.dir="$home/first" </dev/null >/dev/null 2>&1 &&
        mv "$home/loaded.part" "$home/loaded.jsa" || echo "Hadoop will start more slowly than it could"
fi

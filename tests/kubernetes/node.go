// A node without containers, for tests: the streaming endpoints of a kubelet, served by the kubelet's own packages, whose
// every pod is this machine. `exec` runs the command here, `logs -f` counts lines until the reader goes, `port-forward`
// connects to 127.0.0.1. Whoever shows a client certificate of the CA may ask; nobody else.
//
//	node ADDRESS CA-FILE CERTIFICATE-FILE KEY-FILE
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	protocols "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubernetes/pkg/kubelet/cri/streaming/portforward"
	server "k8s.io/kubernetes/pkg/kubelet/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	idle     = 4 * time.Hour
	creation = 30 * time.Second
)

type machine struct{}

// ExecInContainer runs a command of this machine. A terminal is announced and resized, but not made.
func (machine) ExecInContainer(pod string, uid types.UID, container string, command []string, in io.Reader,
	out, errors_ io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	process := exec.Command(command[0], command[1:]...)
	process.Stdout = out
	process.Stderr = errors_
	if tty {
		process.Stderr = out
	}
	if in == nil {
		return ended(process.Run())
	}
	// A pipe of our own, so that a command that ends first does not wait for the rest of its input.
	input, err := process.StdinPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	go func() {
		io.Copy(input, in)
		input.Close()
	}()
	return ended(process.Wait())
}

func ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

// PortForward connects to the port on this machine, whatever the pod.
func (machine) PortForward(pod string, uid types.UID, port int32, stream io.ReadWriteCloser) error {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		io.Copy(connection, stream)
		connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}

func execute(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/") // /exec/NAMESPACE/POD/CONTAINER
	options, err := server.NewOptions(r)
	if err != nil || len(parts) < 5 || len(r.URL.Query()["command"]) == 0 {
		http.Error(w, fmt.Sprint("bad exec request: ", err), http.StatusBadRequest)
		return
	}
	server.ServeExec(w, r, machine{}, parts[3], "", parts[4], r.URL.Query()["command"], options, idle, creation,
		protocols.SupportedStreamingProtocols)
}

func forward(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/") // /portForward/NAMESPACE/POD
	options, err := portforward.NewV4Options(r)
	if err != nil || len(parts) < 4 {
		http.Error(w, fmt.Sprint("bad portForward request: ", err), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, machine{}, parts[3], "", options, idle, creation, portforward.SupportedProtocols)
}

// One line at once, then one for each that the test asks for by appending to the file that CAUSEWAY_NODE_LOG names.
func logs(w http.ResponseWriter, r *http.Request) {
	file, err := os.Open(os.Getenv("CAUSEWAY_NODE_LOG"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	w.Header().Set("Transfer-Encoding", "chunked")
	for {
		n, err := io.Copy(w, file)
		if n > 0 {
			w.(http.Flusher).Flush()
		}
		if err != nil || r.URL.Query().Get("follow") != "true" {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: node ADDRESS CA-FILE CERTIFICATE-FILE KEY-FILE")
		os.Exit(64)
	}
	ca, err := os.ReadFile(os.Args[2])
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		fmt.Fprintln(os.Stderr, "the CA file is not usable:", err)
		os.Exit(1)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/exec/", execute)
	routes.HandleFunc("/portForward/", forward)
	routes.HandleFunc("/containerLogs/", logs)
	node := &http.Server{
		Addr:      os.Args[1],
		Handler:   routes,
		TLSConfig: &tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
		// SPDY upgrades need HTTP/1.1.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	fmt.Fprintln(os.Stderr, "listening", os.Args[1])
	fmt.Fprintln(os.Stderr, node.ListenAndServeTLS(os.Args[3], os.Args[4]))
	os.Exit(1)
}

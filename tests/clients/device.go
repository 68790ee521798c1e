// A device with Go: full and resumed handshakes over TLS 1.3, and a readable refusal of a revoked
// device.
//
//	go run device.go CA URL CLIENT_ID CHAIN KEY token|revoked
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func request(config *tls.Config, address, id string) (string, bool) {
	// A transport of its own makes a handshake of its own.
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	response, err := client.PostForm(address, url.Values{"grant_type": {"client_credentials"}, "client_id": {id}})
	if err != nil {
		return err.Error(), false
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return fmt.Sprintf("%d %s", response.StatusCode, body), response.TLS.DidResume
}

func main() {
	ca, address, id, chain, key, expected := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]
	roots := x509.NewCertPool()
	pem, _ := os.ReadFile(ca)
	roots.AppendCertsFromPEM(pem)
	own, err := tls.LoadX509KeyPair(chain, key)
	if err != nil {
		panic(err)
	}
	// Go has extended_master_secret, which the gateway requires with TLS 1.2, from 1.21 on; Debian 12 has 1.19.
	for _, version := range []uint16{tls.VersionTLS13} {
		config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, MinVersion: version,
			MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		for attempt := 0; attempt < 2; attempt++ {
			result, resumed := request(config, address, id)
			good := strings.HasPrefix(result, "200 ") && resumed == (attempt == 1)
			if expected == "revoked" {
				good = strings.Contains(result, "revoked certificate")
			}
			if !good {
				fmt.Fprintf(os.Stderr, "device.go: %x, request %d, resumed %v: %s\n", version, attempt+1, resumed, result)
				os.Exit(1)
			}
		}
	}
}

// Usage: allow-all HOST:PORT   The server to be compared with: grpc-go and go-control-plane; reads every check, answers OK.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

type allowAll struct {
	auth.UnimplementedAuthorizationServer
}

// Check is called with the request decoded through the generated types.
func (allowAll) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return &auth.CheckResponse{Status: &rpc.Status{}}, nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: allow-all HOST:PORT")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, allowAll{})
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"extAuthz": listener.Addr().String()}); err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}

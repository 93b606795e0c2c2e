// Command go-client calls a Check service with grpc-go as hard as its flags say, and prints what came back as JSON.
//
// usage: go-client -address HOST:PORT
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// No case may take longer; a hang is DEADLINE_EXCEEDED, never silence.
const longest = 20 * time.Second

const check = "/envoy.service.auth.v3.Authorization/Check"

type result struct {
	Case string `json:"case"`
	// How many calls ended with which gRPC status, by its name.
	Codes map[string]int `json:"codes"`
	// The first message that came with a status other than OK.
	Message string `json:"message"`
}

func main() {
	address := flag.String("address", "", "HOST:PORT of the service")
	flag.Parse()
	var results []result
	for _, c := range cases {
		results = append(results, c.run(*address))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type testCase struct {
	name        string
	connections int
	// Calls of each connection, all at once.
	calls   int
	options []grpc.DialOption
	// Further turns on the same connections, one after the other.
	turns int
	call  func(ctx context.Context, connection *grpc.ClientConn, n int) error
}

var cases = []testCase{
	{name: "empty_unary", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return send(ctx, c, &auth.CheckRequest{})
	}},
	{name: "large_unary", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return send(ctx, c, large(1<<20))
	}},
	{name: "large_unary_beyond_the_limit", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return send(ctx, c, large(4<<20))
	}},
	{name: "large_unary_small_windows", calls: 10, options: []grpc.DialOption{
		grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535), grpc.WithWriteBufferSize(1000),
	}, call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return send(ctx, c, large(256<<10))
	}},
	{name: "unimplemented_method", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return invoke(ctx, c, "/envoy.service.auth.v3.Authorization/Uncheck")
	}},
	{name: "unimplemented_service", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return invoke(ctx, c, "/grpc.testing.UnimplementedService/UnimplementedCall")
	}},
	{name: "special_status_message", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		// The status message may quote the path: what stands there must survive the encoding of grpc-message.
		return invoke(ctx, c, "/t.Test/with%20space%09and%E2%98%BA")
	}},
	{name: "gzip_request", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		return send(ctx, c, ordinary(0), grpc.UseCompressor(gzip.Name))
	}},
	{name: "custom_metadata", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-grpc-test-echo-initial", "test_initial_metadata_value",
			"x-grpc-test-echo-trailing-bin", "\xab\xab\xab", "x-long", strings.Repeat("x", 6000))
		return send(ctx, c, ordinary(0))
	}},
	{name: "cancel_after_begin", calls: 100, call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, check)
		if err != nil {
			cancel()
			return err
		}
		cancel()
		return stream.RecvMsg(&auth.CheckResponse{})
	}},
	{name: "cancelled_half_then_answered", calls: 200, turns: 3, call: func(ctx context.Context, c *grpc.ClientConn, n int) error {
		if n%2 == 0 {
			return send(ctx, c, ordinary(n))
		}
		ctx, cancel := context.WithCancel(ctx)
		go cancel()
		if err := send(ctx, c, ordinary(n)); err != nil && status.Code(err) != codes.Canceled {
			return err
		}
		return nil
	}},
	{name: "timeout_on_sleeping_server", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		// The request is never ended, so that there is nothing to answer before the deadline.
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, check)
		if err != nil {
			return err
		}
		return stream.RecvMsg(&auth.CheckResponse{})
	}},
	{name: "no_request_message", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, check)
		if err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return stream.RecvMsg(&auth.CheckResponse{})
	}},
	{name: "two_request_messages", call: func(ctx context.Context, c *grpc.ClientConn, _ int) error {
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, check)
		if err != nil {
			return err
		}
		for range 2 {
			if err := stream.SendMsg(ordinary(0)); err != nil {
				break // refused at the first; RecvMsg tells with what
			}
		}
		_ = stream.CloseSend() // a stream that is refused is told by RecvMsg
		return stream.RecvMsg(&auth.CheckResponse{})
	}},
	{name: "concurrent_on_one_connection", calls: 1000, turns: 2, call: answered},
	{name: "many_connections", connections: 100, calls: 10, call: answered},
	{name: "client_pings", calls: 1, turns: 3, options: []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
	}, call: answered},
}

func answered(ctx context.Context, c *grpc.ClientConn, n int) error { return send(ctx, c, ordinary(n)) }

func (c testCase) run(address string) result {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	r := result{Case: c.name, Codes: map[string]int{}}
	var lock sync.Mutex
	count := func(err error) {
		lock.Lock()
		defer lock.Unlock()
		s := status.Convert(err)
		r.Codes[s.Code().String()]++
		if s.Code() != codes.OK && r.Message == "" {
			r.Message = s.Message()
		}
	}
	var all sync.WaitGroup
	for range max(1, c.connections) {
		options := append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, c.options...)
		connection, err := grpc.NewClient("passthrough:///"+address, options...)
		if err != nil {
			count(err)
			continue
		}
		defer connection.Close()
		all.Add(1)
		go func() {
			defer all.Done()
			for range max(1, c.turns) {
				var turn sync.WaitGroup
				for n := range max(1, c.calls) {
					turn.Add(1)
					go func() {
						defer turn.Done()
						count(c.call(ctx, connection, n))
					}()
				}
				turn.Wait()
			}
		}()
	}
	all.Wait()
	return r
}

// send asks for one check; an answer without a status or of another kind is an error of its own.
func send(ctx context.Context, c *grpc.ClientConn, request *auth.CheckRequest, options ...grpc.CallOption) error {
	response, err := auth.NewAuthorizationClient(c).Check(ctx, request, options...)
	if err == nil && response.GetHttpResponse() == nil && response.GetStatus() == nil {
		return status.Error(codes.DataLoss, "an answer without content")
	}
	return err
}

func invoke(ctx context.Context, c *grpc.ClientConn, path string) error {
	return c.Invoke(ctx, path, &auth.CheckRequest{}, &auth.CheckResponse{})
}

func ordinary(n int) *auth.CheckRequest {
	return request(map[string]string{"user-agent": "go/1.0"}, fmt.Sprintf("/orders/%d", n%10), nil)
}

// large has 60 KiB of headers, and a body.
func large(bodyBytes int) *auth.CheckRequest {
	headers := map[string]string{}
	for n := range 60 {
		headers[fmt.Sprintf("x-large-%d", n)] = strings.Repeat("x", 1024)
	}
	return request(headers, "/orders", make([]byte, bodyBytes))
}

func request(headers map[string]string, path string, body []byte) *auth.CheckRequest {
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source: &auth.AttributeContext_Peer{
			Principal: "spiffe://td/go",
			Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
				Address: "10.0.0.9", PortSpecifier: &core.SocketAddress_PortValue{PortValue: 40000},
			}}},
		},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: "GET", Host: "orders", Path: path, Headers: headers, RawBody: body,
		}},
	}}
}

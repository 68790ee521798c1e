/* A device with wolfSSL: token requests on connections of their own, each resuming the session of the one before.
 *
 *   wolfssl CA HOST PORT CLIENT_ID CHAIN KEY VERSION COUNT
 *
 * CLIENT_ID is percent-encoded, VERSION is 1.2 or 1.3.  With - for CHAIN, no certificate is presented.  Prints one line for each connection. */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void fail(const char *what) {
  fprintf(stderr, "wolfssl.c: %s\n", what);
  exit(2);
}

static int dial(const char *host, const char *port) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all, *one;
  struct timeval limit = {.tv_sec = 20};
  int fd = -1;
  if (getaddrinfo(host, port, &hints, &all) != 0) fail("cannot resolve the host");
  for (one = all; one != NULL; one = one->ai_next) {
    fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
    if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0) break;
    if (fd >= 0) close(fd);
    fd = -1;
  }
  freeaddrinfo(all);
  if (fd < 0) fail("cannot connect");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return fd;
}

/* Prints the error of the library and the alert of the peer. */
static void explain(WOLFSSL *ssl, const char *step, int result) {
  char text[WOLFSSL_MAX_ERROR_SZ];
  WOLFSSL_ALERT_HISTORY alerts;
  int error = wolfSSL_get_error(ssl, result);
  printf("%s: error %d (%s)", step, error, wolfSSL_ERR_error_string((unsigned long)error, text));
  if (wolfSSL_get_alert_history(ssl, &alerts) == WOLFSSL_SUCCESS && alerts.last_rx.code >= 0) {
    printf(", alert %d (%s)", alerts.last_rx.code, wolfSSL_alert_desc_string_long(alerts.last_rx.code));
  }
  printf("\n");
}

int main(int argc, char **argv) {
  WOLFSSL_SESSION *session = NULL;
  if (argc != 9) fail("expected CA HOST PORT CLIENT_ID CHAIN KEY VERSION COUNT");
  const char *host = argv[2], *id = argv[4], *version = argv[7];
  signal(SIGPIPE, SIG_IGN);
  wolfSSL_Init();
  WOLFSSL_CTX *ctx = wolfSSL_CTX_new(strcmp(version, "1.2") == 0 ? wolfTLSv1_2_client_method() : wolfTLSv1_3_client_method());
  if (ctx == NULL) fail("no context");
  if (wolfSSL_CTX_load_verify_locations(ctx, argv[1], NULL) != WOLFSSL_SUCCESS) fail("cannot read CA");
  if (strcmp(argv[5], "-") != 0) {
    if (wolfSSL_CTX_use_certificate_chain_file(ctx, argv[5]) != WOLFSSL_SUCCESS) fail("cannot read CHAIN");
    if (wolfSSL_CTX_use_PrivateKey_file(ctx, argv[6], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS) fail("cannot read KEY");
  }
  wolfSSL_CTX_UseSessionTicket(ctx);
  for (int n = atoi(argv[8]); n > 0; n--) {
    int fd = dial(host, argv[3]), result;
    char request[1024], answer[8192] = "";
    size_t length = 0;
    WOLFSSL *ssl = wolfSSL_new(ctx);
    if (ssl == NULL) fail("no connection");
    wolfSSL_set_fd(ssl, fd);
    wolfSSL_check_domain_name(ssl, host);
    wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, host, (unsigned short)strlen(host));
    if (session != NULL) wolfSSL_set_session(ssl, session);
    printf("TLS %s ", version);
    snprintf(request, sizeof request,
             "POST /oauth2/token HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
             "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %zu\r\n\r\n"
             "grant_type=client_credentials&client_id=%s",
             host, strlen("grant_type=client_credentials&client_id=") + strlen(id), id);
    if ((result = wolfSSL_connect(ssl)) != WOLFSSL_SUCCESS) {
      explain(ssl, "handshake", result);
    } else if ((result = wolfSSL_write(ssl, request, (int)strlen(request))) <= 0) {
      explain(ssl, "write", result);
    } else {
      while (length + 1 < sizeof answer && (result = wolfSSL_read(ssl, answer + length, (int)(sizeof answer - length - 1))) > 0) {
        length += (size_t)result;
      }
      answer[length] = 0;
      if (length == 0) {
        explain(ssl, "read", result);
      } else {
        char *body = strstr(answer, "\r\n\r\n");
        printf("%s: %.3s %s\n", wolfSSL_session_reused(ssl) ? "resumed" : "full", answer + strlen("HTTP/1.1 "), body == NULL ? "" : body + 4);
        wolfSSL_SESSION_free(session);
        session = wolfSSL_get1_session(ssl);
        wolfSSL_shutdown(ssl);
      }
    }
    fflush(stdout);
    wolfSSL_free(ssl);
    close(fd);
  }
  wolfSSL_SESSION_free(session);
  wolfSSL_CTX_free(ctx);
  return 0;
}

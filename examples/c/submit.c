/* Submits a task to a Hivemesh by plain NATS and prints its result.
 *
 *   apt-get install libnats-dev && make
 *   ./submit KIND [BODY]        (without BODY it is read from standard input)
 */
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *from_environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

static void must(const char *what, natsStatus status) {
    if (status == NATS_OK) return;
    const char *detail = nats_GetLastError(NULL);
    fprintf(stderr, "%s: %s %s\n", what, natsStatus_GetText(status), detail != NULL ? detail : "");
    exit(1);
}

static char *read_all(size_t *length) {
    size_t size = 1 << 16;
    char *body = malloc(size);
    *length = 0;
    while (body != NULL) {
        *length += fread(body + *length, 1, size - *length, stdin);
        if (*length < size) return body;
        body = realloc(body, size *= 2);
    }
    fprintf(stderr, "the body does not fit into memory\n");
    exit(1);
}

/* Until the result is copied to our inbox. That copy can get lost with a coordinator; the result itself is kept. */
static natsMsg *wait_for_result(natsSubscription *inbox, jsCtx *js, const char *stream, const char *subject) {
    natsMsg *result = NULL;
    jsDirectGetMsgOptions last;
    jsDirectGetMsgOptions_Init(&last);
    last.LastBySubject = subject;
    for (int tries = 0; tries < 30; tries++) {
        if (natsSubscription_NextMsg(&result, inbox, 2000) == NATS_OK) return result;
        if (js_DirectGetMsg(&result, js, stream, NULL, &last) == NATS_OK) return result;
    }
    fprintf(stderr, "no result within a minute: it will be on %s\n", subject);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s KIND [BODY]\n", argv[0]);
        return 2;
    }
    const char *mesh = from_environment("HIVE_MESH", "hive");
    size_t length = argc == 3 ? strlen(argv[2]) : 0;
    const char *body = argc == 3 ? argv[2] : read_all(&length);

    natsConnection *nc = NULL;
    natsSubscription *inbox = NULL;
    natsInbox *inbox_subject = NULL;
    jsCtx *js = NULL;
    must("connect", natsConnection_ConnectTo(&nc, from_environment("NATS_URL", NATS_DEFAULT_URL)));
    must("JetStream", natsConnection_JetStream(&js, nc, NULL));
    must("inbox", natsInbox_Create(&inbox_subject));
    must("subscribe", natsConnection_SubscribeSync(&inbox, nc, inbox_subject)); /* Before the task is there. */

    char id[64], subject[256], result_subject[256], stream[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(id, sizeof id, "c-%lld%09ld-%ld", (long long)now.tv_sec, now.tv_nsec, (long)getpid());
    snprintf(subject, sizeof subject, "%s.task.%s.normal.%s", mesh, argv[1], id);
    snprintf(result_subject, sizeof result_subject, "%s.result.%s", mesh, id);
    snprintf(stream, sizeof stream, "%s_RESULTS", mesh);
    for (char *c = stream; *c != '\0'; c++) {
        if (*c >= 'a' && *c <= 'z') *c += 'A' - 'a';
    }

    natsMsg *task = NULL;
    must("message", natsMsg_Create(&task, subject, NULL, body, (int)length));
    must("header", natsMsgHeader_Set(task, "Hive-Timeout", "30s"));
    must("header", natsMsgHeader_Set(task, "Hive-Reply-To", inbox_subject));
    must("header", natsMsgHeader_Set(task, "Nats-Expected-Last-Subject-Sequence", "0"));
    jsPubAck *accepted = NULL;
    jsErrCode code = 0;
    must("submit", js_PublishMsg(&accepted, js, task, NULL, &code)); /* From here on the task is not lost. */
    unsigned long long number = accepted->Sequence;
    fprintf(stderr, "task %s is number %llu of stream %s\n", id, number, accepted->Stream);

    natsMsg *result = wait_for_result(inbox, js, stream, result_subject);
    const char *outcome = "", *error = "";
    must("outcome", natsMsgHeader_Get(result, "Hive-Outcome", &outcome));
    if (natsMsgHeader_Get(result, "Hive-Error", &error) != NATS_OK) error = "";
    fprintf(stderr, "%s %s\n", outcome, error);
    fwrite(natsMsg_GetData(result), 1, (size_t)natsMsg_GetDataLength(result), stdout);
    int succeeded = strcmp(outcome, "succeeded") == 0;

    jsPubAck_Destroy(accepted);
    natsMsg_Destroy(result);
    natsMsg_Destroy(task);
    natsSubscription_Destroy(inbox);
    natsInbox_Destroy(inbox_subject);
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
    nats_Close();
    return succeeded ? 0 : 1;
}

// A broadcaster on ws, as its documentation shows it: node ws.js PORT
const http = require("node:http");
const { WebSocketServer } = require("ws");

const sockets = new WebSocketServer({ noServer: true });
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    for (const socket of sockets.clients) socket.send(body);
    response.end();
  });
});
server.on("upgrade", (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (client) => client.send('{"op":"ready"}'));
});
server.listen(Number(process.argv[2]), "127.0.0.1", 4096);

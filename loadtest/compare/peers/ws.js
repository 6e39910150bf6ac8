// A broadcaster on ws, as its documentation shows it, with rooms: node ws.js PORT
const http = require("node:http");
const { WebSocketServer } = require("ws");

const sockets = new WebSocketServer({ noServer: true, clientTracking: false });
const rooms = new Map();
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    const room = new URL(request.url, "http://localhost").searchParams.get("room");
    for (const client of rooms.get(room) ?? []) client.send(body);
    response.end();
  });
});
server.on("upgrade", (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (client) => {
    const room = request.url.slice(1);
    rooms.set(room, (rooms.get(room) ?? new Set()).add(client));
    client.on("close", () => rooms.get(room).delete(client));
    client.send('{"op":"ready"}');
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1", 4096);
